#include "store/worker.h"

#include <boost/asio/query.hpp>

namespace sqlstream {
namespace {

constexpr std::size_t kThreads = 2;

}  // namespace

Worker& Worker::of(const boost::asio::any_io_executor& executor) {
  return boost::asio::use_service<Worker>(
      boost::asio::query(executor, boost::asio::execution::context));
}

void Worker::shutdown() {
  if (threads_) threads_->join();
}

boost::asio::thread_pool& Worker::pool() {
  const std::lock_guard lock(mutex_);
  if (!threads_) threads_ = std::make_unique<Workers>(kThreads);
  return threads_->pool();
}

}  // namespace sqlstream
