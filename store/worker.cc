#include "store/worker.h"

namespace sqlstream {

Worker::~Worker() {
  if (pool_) pool_->wait();
}

boost::asio::thread_pool& Worker::pool() {
  const std::lock_guard lock(mutex_);
  if (!pool_) {
    const SignalsBlocked blocked;
    pool_ = std::make_unique<boost::asio::thread_pool>(threads_);
  }
  return *pool_;
}

}  // namespace sqlstream
