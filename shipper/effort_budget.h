#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace sqlstream {

/// How much is compressed with high effort: as much as costs a process 4 % of a core, however many
/// databases it has. What two seconds are worth can be saved up, and spent at once: it takes 80 ms.
/// Thread-safe.
class EffortBudget {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::uint64_t kBytesPerSecond = 2 << 20;
  static constexpr std::uint64_t kSaved = 2 * kBytesPerSecond;

  /// Takes what so many bytes cost. False when less is left: nothing is taken.
  bool take(std::uint64_t bytes, Clock::time_point now);

 private:
  std::atomic<Clock::duration> spent_until_{Clock::duration::min()};  // on the clock
};

}  // namespace sqlstream
