#pragma once

#include <atomic>
#include <chrono>
#include <semaphore.h>

namespace sqlstream {

/// One call from one thread to another one, which waits for it and may destroy this as soon as it
/// came. Unlike with a condition, there is no mutex behind which the woken thread could have to
/// wait for the one that called it. (POSIX: sem_post() does not use the semaphore any more once
/// sem_wait() can return.)
class WakeCall {
 public:
  WakeCall() noexcept { sem_init(&semaphore_, 0, 0); }
  ~WakeCall() { sem_destroy(&semaphore_); }
  WakeCall(const WakeCall&) = delete;
  WakeCall& operator=(const WakeCall&) = delete;

  /// At most once. What the caller did before is seen by who was called.
  void call() noexcept;

  void wait() noexcept;
  /// False: it did not come until then.
  bool wait_until(std::chrono::steady_clock::time_point until) noexcept;

 private:
  sem_t semaphore_;
  std::atomic<bool> called_{false};  // not all tools know of sem_clockwait()
};

}  // namespace sqlstream
