#include "base/workers.h"

#include "base/signals.h"

namespace sqlstream {

Workers::Workers(std::size_t count) {
  const SignalsBlocked blocked;
  threads_.reserve(count);
  try {
    while (threads_.size() < count) {
      threads_.emplace_back([this] { pool_.attach(); });
    }
  } catch (...) {
    stop();
    join();
    throw;
  }
}

Workers::~Workers() {
  stop();
  join();
}

void Workers::join() {
  if (threads_.empty()) return;
  pool_.wait();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace sqlstream
