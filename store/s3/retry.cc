#include "store/s3/retry.h"

#include <algorithm>

namespace sqlstream {

std::optional<std::chrono::milliseconds> RetrySchedule::next(
    std::chrono::milliseconds elapsed, std::optional<std::chrono::milliseconds> asked) {
  const std::chrono::milliseconds ceiling =
      std::min(policy_.cap, policy_.base * (std::int64_t{1} << std::min(pauses_++, 16)));
  std::chrono::milliseconds pause(
      std::uniform_int_distribution<std::int64_t>(0, ceiling.count())(random_));
  if (asked && elapsed + *asked <= policy_.budget) pause = std::max(pause, *asked);
  if (elapsed + pause > policy_.budget) return {};
  return pause;
}

std::optional<std::chrono::milliseconds> RetrySchedule::next_connect(
    std::chrono::milliseconds elapsed) {
  if (++connect_failures_ >= policy_.connect_attempts) return {};
  return next(elapsed, {});
}

}  // namespace sqlstream
