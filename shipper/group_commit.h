#pragma once

#include <chrono>
#include <cstdint>

namespace sqlstream {

/// For how long a segment waits for more commits, while some already wait for the replica.
///
/// Those whose commits were in one segment go on together, and mostly commit again at once. Who
/// misses the next segment waits twice as long, since one is under way at a time. So the next one
/// is held back for a moment, until as many commits are there as there are writers; but not where
/// they mostly do other things first. Commits are counted by tickets (Durability). Not thread-safe.
class GroupCommit {
 public:
  using Clock = std::chrono::steady_clock;

  /// A segment begins, with all commits up to that ticket.
  void begin(std::uint64_t ticket, Clock::time_point now);
  /// It is in the replica, and those that waited for it are about to go on. `ticket`: the last
  /// commit that was made meanwhile.
  void shipped(std::uint64_t ticket, Clock::time_point now);

  /// The last commit of the segment that was begun last, and whether it has those of several
  /// writers.
  std::uint64_t last() const { return last_; }
  bool several() const { return last_ - first_ > 1; }
  /// The next segment has enough with the commits up to this ticket.
  std::uint64_t enough() const;
  /// Until when it waits for more, at most. `now`: when it could begin.
  Clock::time_point until(Clock::time_point now) const;

 private:
  Clock::time_point begun_{};
  Clock::duration took_{};          // the last segment
  std::uint64_t first_ = 0;         // the last ticket before it
  std::uint64_t last_ = 0;          // its last ticket
  std::uint64_t when_shipped_ = 0;  // the last ticket when it was in the replica
  int rest_ = 0;                    // so many segments do not wait, after one that waited in vain
  int resting_ = 0;                 // so many of them are left
};

}  // namespace sqlstream
