#include "base/workers.h"

#include "base/patience.h"
#include "base/scheduling.h"
#include "base/signals.h"

namespace sqlstream {

Workers::Workers(std::size_t count) {
  const SignalsBlocked blocked;
  threads_.reserve(count);
  try {
    while (threads_.size() < count) {
      running_.fetch_add(1);
      threads_.emplace_back([this] {
        set_patience(Patience::asio);
        const InterruptsNobody polite;
        pool_.attach();
        running_.fetch_sub(1);
      });
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
