#pragma once

#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

#include <boost/asio/thread_pool.hpp>

namespace sqlstream {

/// Threads of ours that serve a pool. All signals are blocked in them, they interrupt nobody
/// (base/scheduling.h), and what Boost.Asio allocates there is waited for (base/patience.h). The
/// pool's own threads would not do: its constructor never returns where only the first of several
/// can be had.
class Workers {
 public:
  /// Throws std::system_error when there are not that many threads to be had; none is left then.
  explicit Workers(std::size_t count);
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  /// What has begun ends before it returns, what has not is dropped.
  ~Workers();

  boost::asio::thread_pool& pool() { return pool_; }

  /// Nothing more begins. Thread-safe.
  void stop() { pool_.stop(); }
  /// After stop(): nothing runs any more. Thread-safe.
  bool ended() const { return running_.load() == 0; }
  /// Returns when all that was posted is done, or after stop() what had begun.
  void join();

 private:
  boost::asio::thread_pool pool_{0};
  std::atomic<std::size_t> running_{0};
  std::vector<std::thread> threads_;
};

}  // namespace sqlstream
