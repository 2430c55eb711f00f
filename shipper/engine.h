#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/on_worker.h"

namespace sqlstream {

namespace asio = boost::asio;

class Semaphore;

/// Room for one handler while it waits to be called.
class HandlerRoom {
 public:
  template <class T>
  struct Allocator {
    using value_type = T;
    explicit Allocator(HandlerRoom& its) : room(&its) {}
    template <class U>
    explicit Allocator(const Allocator<U>& other) : room(other.room) {}
    T* allocate(std::size_t) const {
      static_assert(sizeof(T) <= kSize);
      return reinterpret_cast<T*>(room->bytes_.data());
    }
    void deallocate(T*, std::size_t) const {}
    template <class U>
    bool operator==(const Allocator<U>& other) const {
      return room == other.room;
    }
    HandlerRoom* room;
  };

 private:
  static constexpr std::size_t kSize = 128;
  alignas(std::max_align_t) std::array<std::byte, kSize> bytes_;
};

/// The threads of this process: one that runs all coroutines, and a few workers for what blocks or
/// computes. Started on first use, anew in a forked child. All signals are blocked in them.
class Engine {
 public:
  /// The engine; made and started when there is none. Thread-safe. Never destroyed: a program that
  /// ends while coroutines wait must not wait for them.
  static Engine& get();
  /// The engine, null when there is none in this process or it was stopped.
  static Engine* running() noexcept;
  static bool is_stopped() noexcept;

  /// Starts the threads where they could not be had before. False: nor now, which is logged once;
  /// what is posted waits. Thread-safe.
  bool start() noexcept;

  asio::any_io_executor executor() const;
  /// Has `handler` called on the engine's thread, without an allocation. `room` lives until then,
  /// and is used by one handler at a time. Thread-safe.
  template <class Handler>
  void post(HandlerRoom& room, Handler handler) {
    asio::post(io(),
               asio::bind_allocator(HandlerRoom::Allocator<Handler>(room), std::move(handler)));
  }
  /// On the engine's thread.
  asio::thread_pool& workers();
  /// For what uses much memory or time, of which a process does one at a time.
  Semaphore& one_at_a_time();

  /// Ends the threads and waits for them, unless one waits for memory. Nothing begins afterwards;
  /// nothing is freed. False: they had not begun, or one has not ended.
  static bool stop() noexcept;

 private:
  Engine();
  static Engine& make();
  asio::io_context& io();
  struct Threads;
  Threads* threads_;
  std::atomic<bool> started_{false};
  std::atomic<bool> failed_{false};
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

/// What `error` says, as far as there is memory for it.
std::string text_of(const std::exception& error) noexcept;

/// Runs `body()` to its end: again, after a moment, where it ended for want of memory.
template <class Body>
asio::awaitable<void> despite_memory(Body body) {
  while (true) {
    try {
      co_await body();
      co_return;
    } catch (const std::bad_alloc&) {
    }
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(100));
    co_await timer.async_wait(asio::use_awaitable);
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
