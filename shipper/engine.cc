#include "shipper/engine.h"

#include <atomic>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include "base/error.h"
#include "base/fork.h"
#include "base/signals.h"
#include "base/workers.h"
#include "store/s3/semaphore.h"

namespace sqlstream {
namespace {

constexpr std::size_t kWorkers = 2;

std::atomic<Engine*> current{nullptr};
std::atomic<bool> stopped{false};

std::mutex& start_mutex() {
  static auto* mutex = new std::mutex();
  return *mutex;
}

}  // namespace

struct Engine::Threads {
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard{io.get_executor()};
  Workers workers{kWorkers};
  Semaphore one_at_a_time{io.get_executor(), 1};
  // Last: where it cannot be had the workers end again.
  std::thread thread{[this] { io.run(); }};
};

Engine::Engine() try {
  const SignalsBlocked blocked;
  threads_ = new Threads();
} catch (const std::system_error& e) {
  throw Error(std::string("there are no threads to be had, so nothing is replicated until the ") +
              "database is opened again: " + e.what());
}

Engine& Engine::get() {
  if (Engine* engine = current.load(std::memory_order_acquire)) return *engine;
  const std::lock_guard lock(start_mutex());
  if (Engine* engine = current.load(std::memory_order_acquire)) return *engine;
  // In a child, threads do not exist: what the parent's engine owned is left alone.
  call_in_child([] {
    current.store(nullptr);
    new (&start_mutex()) std::mutex();
  });
  auto* engine = new Engine();
  current.store(engine, std::memory_order_release);
  return *engine;
}

Engine* Engine::running() noexcept {
  return stopped.load() ? nullptr : current.load(std::memory_order_acquire);
}

asio::any_io_executor Engine::executor() const {
  return threads_->io.get_executor();
}
asio::thread_pool& Engine::workers() {
  return threads_->workers.pool();
}
Semaphore& Engine::one_at_a_time() {
  return threads_->one_at_a_time;
}

void Engine::stop() noexcept {
  Engine* engine = current.load(std::memory_order_acquire);
  if (engine == nullptr || stopped.exchange(true)) return;
  try {
    engine->threads_->workers.stop();
    engine->threads_->io.stop();
    engine->threads_->thread.join();
    engine->threads_->workers.join();
  } catch (const std::exception&) {
    // The process ends; a thread that cannot be joined ends with it.
  }
}

asio::awaitable<void> Signal::wait() {
  while (!set_) {
    timer_.expires_at(std::chrono::steady_clock::time_point::max());
    co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  set_ = false;
}

asio::awaitable<bool> Signal::wait_until(std::chrono::steady_clock::time_point time) {
  while (!set_ && std::chrono::steady_clock::now() < time) {
    timer_.expires_at(time);
    co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  co_return std::exchange(set_, false);
}

}  // namespace sqlstream
