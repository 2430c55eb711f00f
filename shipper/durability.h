#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include <boost/intrusive/list.hpp>

#include "base/clock.h"
#include "base/wake_call.h"

namespace sqlstream {

/// Which commits are in the replicas, for those that wait for it (the synchronous mode).
///
/// A commit takes a ticket once it is visible. A capture that begins later and sees everything
/// through has it, so the outbox sequence that this capture ends at is what the replicas must
/// reach. Sequences only grow, whatever is reset, and whatever generation is begun anew.
/// Thread-safe.
class Durability {
 public:
  using Clock = std::chrono::steady_clock;

  /// How far a replica is.
  struct End {
    std::uint64_t sequence = 0;
    Time commit_time{};  ///< of its last commit
  };
  /// A commit that was waited for in vain.
  struct Behind {
    Time since{};
    std::uint64_t ticket = 0;  ///< 0: another process's, no later than `sequence`
    std::chrono::milliseconds limit{0};
    bool fail = false;  ///< the writes of who waited are refused
    std::uint64_t sequence = 0;
  };

  /// Here as below, `any`: for who asks, a commit that one of the replicas has is durable; else all
  /// must have it.
  explicit Durability(std::size_t replicas) : ends_(replicas) {}

  /// A ticket that is never taken.
  static constexpr std::uint64_t kNever = UINT64_MAX;

  /// Greater than every one before, never 0.
  std::uint64_t take_ticket() noexcept { return tickets_.fetch_add(1) + 1; }
  /// How many there are; to be asked before a capture looks.
  std::uint64_t tickets() const noexcept { return tickets_.load(); }
  /// A capture that began when there were so many tickets has seen everything through, and the
  /// outbox ends at `sequence`.
  void captured(std::uint64_t tickets, std::uint64_t sequence);
  /// How many tickets captures have so far.
  std::uint64_t captured_tickets() const;
  /// Where that commit is in the outbox, or a later place; 0: it was not captured yet.
  std::uint64_t sequence_of(std::uint64_t ticket) const;

  /// Until further notice, what is committed is captured for all that wait, and shipped, so that
  /// none of them need do it. Whoever takes the ticket `enough` (0: nothing is promised) has to
  /// tell. Tickets taken before are seen by a tickets() that follows.
  void promise(std::uint64_t enough);
  /// 0: nothing. To be asked behind take_ticket().
  std::uint64_t promised() const noexcept { return promised_.load(); }
  /// Waits until that commit is durable: true. False when the time came first, after stop(), or
  /// when nothing is promised any more.
  bool wait_promised(std::uint64_t ticket, bool any, Clock::time_point until);

  /// The replica is known to have everything up to `end`.
  void shipped(std::size_t replica, End end);
  /// Up to where everything is durable.
  End end(bool any) const;
  /// Up to where everything is known to be in that replica.
  std::uint64_t end_of(std::size_t replica) const;
  /// Waits until everything up to `sequence` is durable: true. False when the time came first, or
  /// after stop().
  bool wait(std::uint64_t sequence, bool any, Clock::time_point until);
  /// Ends all waiting, for good.
  void stop();
  bool stopped() const { return stopped_.load(); }

  /// Commits are not waited for, from a wait in vain until the replicas have caught up.
  std::optional<Behind> behind(bool any) const;
  /// False when it is so already.
  bool fall_behind(bool any, Behind behind);
  /// False when nothing was behind.
  bool catch_up(bool any);

 private:
  struct Captured {
    std::uint64_t tickets = 0;
    std::uint64_t sequence = 0;
  };

  /// One of them is on each waiting thread's stack, each with a call of its own: who shares one
  /// wakes up to wait for its mutex, behind all others.
  struct Waiter : boost::intrusive::list_base_hook<> {
    std::uint64_t ticket = 0;    // 0: it knows the sequence
    std::uint64_t sequence = 0;  // 0: not captured yet
    bool any = false;
    std::optional<bool> durable;  // mutex_; once it has one, it is called without that mutex
    WakeCall call;
  };
  using Waiters = boost::intrusive::list<Waiter>;

  End durable(bool any) const;
  const Captured& newest() const;
  std::uint64_t find(std::uint64_t ticket) const;
  bool is_durable(const Waiter& waiter) const;
  bool waits(const Waiter& waiter) const;
  Waiters take_called();
  static void call(Waiters waiters) noexcept;
  bool wait(Waiter& waiter, Clock::time_point until);

  std::atomic<std::uint64_t> tickets_{0};
  std::atomic<std::uint64_t> promised_{0};
  std::atomic<bool> stopped_{false};
  mutable std::mutex mutex_;
  Waiters waiters_;  // mutex_
  /// The last captures that had new tickets. Who finds an older one gone takes a later one, which
  /// has the commit too.
  std::array<Captured, 64> captured_{};          // mutex_, a ring
  std::size_t next_ = 0;                         // mutex_
  std::vector<End> ends_;                        // mutex_
  std::array<std::optional<Behind>, 2> behind_;  // mutex_, by `any`
  std::array<std::atomic<bool>, 2> has_behind_{};
};

}  // namespace sqlstream
