// clang 14's thread sanitizer does not know pthread_mutex_clocklock(), which std::timed_mutex waits
// with, and would take every such lock for none. It knows pthread_mutex_timedlock().

#include <ctime>
#include <pthread.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)

extern "C" __attribute__((visibility("default"))) int pthread_mutex_clocklock(
    pthread_mutex_t* mutex, clockid_t clock, const timespec* until) noexcept {
  constexpr long kSecond = 1'000'000'000;
  timespec then{};
  timespec now{};
  ::clock_gettime(clock, &then);
  ::clock_gettime(CLOCK_REALTIME, &now);
  now.tv_sec += until->tv_sec - then.tv_sec;
  now.tv_nsec += until->tv_nsec - then.tv_nsec;
  if (now.tv_nsec < 0) {
    --now.tv_sec;
    now.tv_nsec += kSecond;
  } else if (now.tv_nsec >= kSecond) {
    ++now.tv_sec;
    now.tv_nsec -= kSecond;
  }
  return ::pthread_mutex_timedlock(mutex, &now);
}

#endif
#endif
