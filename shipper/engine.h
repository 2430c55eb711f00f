#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/on_worker.h"

namespace sqlstream {

namespace asio = boost::asio;

class Semaphore;

/// The threads of this process: one that runs all coroutines, and a few workers for what blocks or
/// computes. Started on first use, anew in a forked child. All signals are blocked in them.
class Engine {
 public:
  /// The running engine; started when there is none. Thread-safe. Never destroyed: a program that
  /// ends while coroutines wait must not wait for them.
  static Engine& get();
  /// The running engine, null when none was started in this process or it was stopped.
  static Engine* running() noexcept;

  asio::any_io_executor executor() const;
  asio::thread_pool& workers();
  /// For what uses much memory or time, of which a process does one at a time.
  Semaphore& one_at_a_time();

  /// Ends the coroutine thread and waits for it. Nothing runs afterwards; nothing is freed.
  static void stop() noexcept;

 private:
  Engine();
  struct Threads;
  Threads* threads_;
};

/// Runs `work()` on the workers; its result or exception arrives in the awaiting coroutine, in
/// whose frame `work` stays.
template <class Work>
asio::awaitable<std::invoke_result_t<Work&>> on_worker(Work work) {
  using Result = std::invoke_result_t<Work&>;
  auto& pool = Engine::get().workers();
  if constexpr (std::is_void_v<Result>) {
    co_await on_worker(pool, work);
  } else {
    std::optional<Result> result;
    auto call = [&] { result.emplace(work()); };
    co_await on_worker(pool, call);
    co_return std::move(*result);
  }
}

/// A flag that coroutines of the engine's thread wait for. Used on that thread only.
class Signal {
 public:
  explicit Signal(const asio::any_io_executor& executor) : timer_(executor) {}

  void notify() {
    set_ = true;
    timer_.cancel();
  }
  /// Returns at once when notified since the last wait.
  asio::awaitable<void> wait();
  /// True when notified, false when the time came first.
  asio::awaitable<bool> wait_until(std::chrono::steady_clock::time_point time);

 private:
  asio::steady_timer timer_;
  bool set_ = false;
};

}  // namespace sqlstream
