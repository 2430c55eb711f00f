#include "base/wake_call.h"

#include <cerrno>
#include <ctime>

namespace sqlstream {

void WakeCall::call() noexcept {
  called_.store(true, std::memory_order_release);
  sem_post(&semaphore_);
}

void WakeCall::wait() noexcept {
  while (sem_wait(&semaphore_) != 0) {  // EINTR
  }
  called_.load(std::memory_order_acquire);
}

bool WakeCall::wait_until(std::chrono::steady_clock::time_point until) noexcept {
  using std::chrono::floor;
  const auto since = until.time_since_epoch();
  const auto seconds = floor<std::chrono::seconds>(since);
  const timespec at{
      .tv_sec = seconds.count(),
      .tv_nsec = static_cast<long>(std::chrono::nanoseconds(since - seconds).count()),
  };
  while (sem_clockwait(&semaphore_, CLOCK_MONOTONIC, &at) != 0) {
    if (errno != EINTR) return false;
  }
  return called_.load(std::memory_order_acquire);
}

}  // namespace sqlstream
