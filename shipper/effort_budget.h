#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace sqlstream {

/// How much is compressed with high effort: as much as costs a process 5 % of a core, however many
/// databases it has. What 2.4 seconds are worth can be saved up, and spent at once: a second of
/// 1,000 random updates fits, and takes 80 ms. Thread-safe.
class EffortBudget {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::uint64_t kBytesPerSecond = 5 << 19;
  static constexpr std::uint64_t kSaved = 6 << 20;

  /// Takes what so many bytes cost. False when less is left: nothing is taken.
  bool take(std::uint64_t bytes, Clock::time_point now);

 private:
  std::atomic<Clock::duration> spent_until_{Clock::duration::min()};  // on the clock
};

}  // namespace sqlstream
