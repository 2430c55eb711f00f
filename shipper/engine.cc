#include "shipper/engine.h"

#include <atomic>
#include <mutex>
#include <thread>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/executor_work_guard.hpp>

#include "base/error.h"
#include "base/fork.h"
#include "base/log.h"
#include "base/patience.h"
#include "base/scheduling.h"
#include "base/signals.h"
#include "base/workers.h"
#include "store/s3/semaphore.h"

namespace sqlstream {
namespace {

constexpr std::size_t kWorkers = 2;
constexpr auto kLongestEnd = std::chrono::seconds(10);  // on a machine that does much else, too

std::atomic<Engine*> current{nullptr};
std::atomic<bool> stopped{false};

std::mutex& start_mutex() {
  static auto* mutex = new std::mutex();
  return *mutex;
}

void run_coroutines(asio::io_context& io) noexcept {
  set_patience(Patience::everything);
  const InterruptsNobody polite;
  while (true) {
    try {
      io.run();
      return;
    } catch (const std::exception& e) {
      // One handler ended by it; the others go on.
      log::error(text_of(e));
    }
  }
}

void report_no_threads(const std::exception& error) noexcept try {
  log::error("there are no threads to be had: nothing is replicated until there are",
             {{"error", text_of(error)}});
} catch (const std::bad_alloc&) {
  // A line less.
}

}  // namespace

struct Engine::Threads {
  // Not for one thread only: posting would use thread-local variables of the application's threads,
  // whose first use in a thread allocates, and ends the process where that fails.
  asio::io_context io;
  asio::executor_work_guard<asio::io_context::executor_type> guard{io.get_executor()};
  Semaphore one_at_a_time{io.get_executor(), 1};
  std::unique_ptr<Workers> workers;
  std::atomic<bool> ended{false};
  std::thread coroutines;

  // Once it runs there is no way back: so it comes last.
  void start() {
    const SignalsBlocked blocked;
    if (!workers) workers = std::make_unique<Workers>(kWorkers);
    coroutines = std::thread([this] {
      run_coroutines(io);
      ended.store(true);
    });
  }
};

Engine::Engine() : threads_(new Threads()) {}

Engine& Engine::get() {
  if (Engine* engine = current.load(std::memory_order_acquire)) return *engine;
  Engine& engine = make();
  engine.start();
  return engine;
}

Engine& Engine::make() {
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

bool Engine::start() noexcept {
  if (started_.load(std::memory_order_acquire)) return true;
  try {
    const std::lock_guard lock(start_mutex());
    if (stopped.load()) return false;
    if (started_.load()) return true;
    threads_->start();
    started_.store(true, std::memory_order_release);
    return true;
  } catch (const std::exception& e) {
    if (!failed_.exchange(true)) report_no_threads(e);
    return false;
  }
}

bool Engine::is_stopped() noexcept {
  return stopped.load();
}

Engine* Engine::running() noexcept {
  return stopped.load() ? nullptr : current.load(std::memory_order_acquire);
}

asio::any_io_executor Engine::executor() const {
  return threads_->io.get_executor();
}
asio::io_context& Engine::io() {
  return threads_->io;
}
asio::thread_pool& Engine::workers() {
  return threads_->workers->pool();
}
Semaphore& Engine::one_at_a_time() {
  return threads_->one_at_a_time;
}

bool Engine::stop() noexcept {
  Engine* engine = current.load(std::memory_order_acquire);
  if (engine == nullptr || stopped.exchange(true)) return false;
  if (!engine->started_.load(std::memory_order_acquire)) return false;
  Threads& threads = *engine->threads_;
  try {
    threads.workers->stop();
    threads.io.stop();
    const auto until = std::chrono::steady_clock::now() + kLongestEnd;
    while (!threads.ended.load() || !threads.workers->ended()) {
      // There may never be any memory again, or the program has closed our descriptors: then the
      // threads end with the process, which is no worse than if it had been killed.
      if (memory_awaited() || std::chrono::steady_clock::now() >= until) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    threads.coroutines.join();
    threads.workers->join();
    return true;
  } catch (const std::exception&) {
    // The process ends; a thread that cannot be joined ends with it.
    return false;
  }
}

std::string text_of(const std::exception& error) noexcept {
  try {
    if (dynamic_cast<const std::bad_alloc*>(&error) == nullptr) return error.what();
  } catch (const std::bad_alloc&) {  // for this text
  }
  return "out of memory";  // so short that it is in the string itself
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
