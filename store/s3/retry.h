#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <random>

namespace sqlstream {

/// When to try again: exponential backoff with full jitter, for a bounded time.
struct RetryPolicy {
  std::chrono::milliseconds budget{30'000};          ///< no new attempt is made past it
  std::chrono::milliseconds base{100};               ///< the first pause is at most this
  std::chrono::milliseconds cap{5'000};              ///< no pause is longer
  std::chrono::milliseconds answer_timeout{60'000};  ///< an answer that begins later is lost
  int connect_attempts = 3;  ///< for a host that does not even accept a connection
};

/// The pauses of one operation. Pure: the caller tells the time and sleeps.
class RetrySchedule {
 public:
  RetrySchedule(RetryPolicy policy, std::uint64_t seed) : policy_(policy), random_(seed) {}

  /// The pause before the next attempt, `elapsed` after the first began; nothing: give up.
  /// `asked` is the service's own wish (Retry-After); one past the budget cannot be met and does
  /// not count (MinIO asks for two minutes while it starts, which takes a second).
  std::optional<std::chrono::milliseconds> next(std::chrono::milliseconds elapsed,
                                                std::optional<std::chrono::milliseconds> asked);

  /// The same after a failure to connect, of which fewer are worth while.
  std::optional<std::chrono::milliseconds> next_connect(std::chrono::milliseconds elapsed);

 private:
  RetryPolicy policy_;
  std::mt19937_64 random_;
  int pauses_ = 0;
  int connect_failures_ = 0;
};

}  // namespace sqlstream
