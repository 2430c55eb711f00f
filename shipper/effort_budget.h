#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace sqlstream {

/// How much is compressed with high effort: as much as costs a process 2 % of a core, however many
/// databases it has. A second's worth can be saved up. Thread-safe.
class EffortBudget {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::uint64_t kBytesPerSecond = 1 << 20;

  /// Takes what so many bytes cost. False when less is left: nothing is taken.
  bool take(std::uint64_t bytes, Clock::time_point now);

 private:
  std::atomic<Clock::duration> spent_until_{Clock::duration::min()};  // on the clock
};

}  // namespace sqlstream
