#include <algorithm>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/scheduling.h"
#include "shipper/database_parts.h"

namespace sqlstream {
namespace {

constexpr auto kNoteInterval = std::chrono::milliseconds(2);    // another process's progress
constexpr auto kOthersLimit = std::chrono::milliseconds(5000);  // the default of sync: on

}  // namespace

// What other processes, or connections that are closed, waited for in vain is not waited for again,
// or forbids this one's writes as well. Only where it has not waited itself: its own commits tell
// it later. False: it could not be found out.
bool Database::learn_behind() noexcept try {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (durability_.behind(false) || durability_.behind(true)) return true;
  if (!lock.try_lock_for(kLongestWait) || !look()) return false;
  const std::int64_t since = outbox_->behind();
  const auto known = tail();
  if (since == 0 || !known) return true;
  lock.unlock();
  for (const bool any : {false, true}) {
    durability_.fall_behind(
        any, {to_time(since), 0, kOthersLimit, settings_.sync_terms.fail, known->last.sequence});
    is_behind(any);
  }
  return true;
} catch (const std::exception&) {
  return false;
}

bool Database::wait_shipped(std::chrono::milliseconds limit) {
  const auto deadline = steady_clock::now() + limit;
  while (true) {
    // Only what a capture has seen through to the newest commit tells what is to be waited for.
    while (!seen_through(capture_in_background())) {
      if (steady_clock::now() >= deadline) return false;
      std::this_thread::sleep_for(kSoon);
    }
    const auto target = tail();
    if (!target || (!generation_alive() && paused())) return false;
    if (generation_alive()) {
      ship_at_once(target->last.sequence);  // who ships may be another process, and pace it
      if (wait_shipped(*target, deadline)) return true;
    }
    if (steady_clock::now() >= deadline) return false;
    // The generation ended meanwhile: what is to be shipped is in the next one. Another process may
    // be the one that can begin it.
    std::this_thread::sleep_for(kSoon * 10);
  }
}

bool Database::wait_shipped(const capture::Tail& target, steady_clock::time_point deadline) {
  start();
  const Flushing flushing(*this, kShip);
  const auto shipped = [&] {
    for (std::size_t i = 0; i < replica_status_.size(); ++i) {
      auto generation = replica_status_[i].generation;
      auto sequence = replica_status_[i].sequence;
      if (role_ == Role::watching) {
        const auto noted = this->noted(i);
        if (!noted || !noted->end || !is_this_boot(noted->boot)) return false;
        generation = noted->end->generation;
        sequence = noted->end->sequence;
      }
      if (sequence < target.last.sequence || generation != target.generation) return false;
    }
    return true;
  };
  std::unique_lock lock(status_mutex_);
  bool done = shipped();
  // Who ended it may be another process: the mark tells, without a lock.
  const auto goes_on = [&] {
    return generation_alive() && tail_ && tail_->generation == target.generation &&
           !outbox_->ended(target.generation);
  };
  while (!done && goes_on() && steady_clock::now() < deadline) {
    // Another process's progress is seen in the outbox only, and by looking.
    const auto look_again = role_ == Role::shipping ? deadline : steady_clock::now() + kSoon;
    status_changed_.wait_until(lock, std::min(deadline, look_again));
    done = shipped();
  }
  return done;
}

bool Database::can_refuse() const {
  const std::lock_guard lock(status_mutex_);
  return refusable_;
}

bool Database::paused() {
  {
    const std::lock_guard lock(status_mutex_);
    if (!obstacle_.empty()) return true;
  }
  return moved_.load() || left_wal();
}

// 0: not captured in time, or it will not be at all.
std::uint64_t Database::sequence_of(std::uint64_t ticket, steady_clock::time_point deadline,
                                    const CaptureNow& capture) {
  while (true) {
    if (const auto sequence = durability_.sequence_of(ticket); sequence != 0) return sequence;
    const auto left = deadline - steady_clock::now();
    if (left <= left.zero() || durability_.stopped()) return 0;
    if (seen_through(capture(left)) && generation_alive()) continue;
    if (paused()) return 0;
    std::this_thread::sleep_for(std::min<steady_clock::duration>(left, kSoon));
  }
}

void Database::ship_at_once(std::uint64_t sequence) {
  if (!raise_to(hurry_, sequence)) return;
  start();
  if (role() == Role::shipping) return tell(kShip);
  const std::lock_guard lock(capture_mutex_);
  if (outbox_) outbox_->poke(capture::Outbox::kShipAtOnce);
}

bool Database::capture_for_waiters() noexcept {
  const std::uint64_t tickets = durability_.tickets();
  capture_in_background();
  if (durability_.captured_tickets() < tickets) return false;
  if (const auto known = tail()) raise_to(hurry_, known->last.sequence);
  return true;
}

// While a segment with several writers' commits is on its way, one capture serves all that come
// behind it. False: nothing is promised, or not kept for too long.
bool Database::wait_with_others(std::uint64_t ticket, bool any, steady_clock::time_point deadline) {
  const std::uint64_t enough = durability_.promised();
  if (enough == 0) return false;
  if (ticket >= enough) tell(kShip);
  return durability_.wait_promised(
      ticket, any, std::min<steady_clock::time_point>(deadline, steady_clock::now() + kRetry));
}

// Not of another outbox in its place, by whoever has that one: its sequences are other commits'.
std::optional<ReplicaNote> Database::noted(std::size_t replica) const {
  const std::string& place = settings_.replicas[replica].store.place();
  auto note = load_replica_note(replica_note_path(outbox_directory(), place));
  if (!is_outbox_there()) note.reset();
  return note;
}

// The outbox does not go as far, also when it is looked at now: its end was lost, and other commits
// get these sequences. True also where it cannot be told.
bool Database::is_ahead(std::uint64_t sequence) {
  const auto beyond = [&] {
    const auto known = tail();
    return !known || sequence > known->last.sequence;
  };
  if (!beyond()) return false;
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  return !lock.try_lock_for(kSoon) || !look() || beyond();
}

// What a note says was proven by the process that wrote it. One from before the machine started
// anew may be ahead of the outbox, which is not fsynced.
void Database::look_at_notes() noexcept try {
  for (std::size_t i = 0; i < settings_.replicas.size(); ++i) {
    const auto noted = this->noted(i);
    if (!noted || !noted->end || !is_this_boot(noted->boot)) continue;
    if (is_ahead(noted->end->sequence)) continue;
    durability_.shipped(i, {noted->end->sequence, noted->commit_time});
  }
} catch (const std::exception&) {
  // They are looked at again.
}

bool Database::reached(std::uint64_t sequence, bool any, steady_clock::time_point deadline) {
  while (steady_clock::now() < deadline && !durability_.stopped()) {
    if (role() == Role::shipping) {
      // It may be lost meanwhile, though hardly ever.
      const auto soon = steady_clock::now() + kRetry;
      if (durability_.wait(sequence, any, std::min<steady_clock::time_point>(deadline, soon))) {
        return true;
      }
      continue;
    }
    // One looks, and tells the others of this process.
    const std::unique_lock looking(looking_at_notes_, std::try_to_lock);
    if (looking) look_at_notes();
    const auto next = steady_clock::now() + (looking ? kNoteInterval : kNoteInterval * 10);
    if (durability_.wait(sequence, any, std::min<steady_clock::time_point>(deadline, next))) {
      return true;
    }
  }
  return durability_.end(any).sequence >= sequence;
}

void Database::wait_durable(std::uint64_t ticket, SyncTerms terms, std::chrono::milliseconds limit,
                            const CaptureNow& capture) {
  if (Engine::running() == nullptr) return;
  if (!learned_.load()) learned_.store(learn_behind());
  if (is_behind(terms.any)) return;
  somebody_waits();
  const auto deadline = steady_clock::now() + limit;
  bool done = wait_with_others(ticket, terms.any, deadline);
  if (!done) {
    const std::uint64_t sequence = sequence_of(ticket, deadline, capture);
    if (sequence != 0) {
      ship_at_once(sequence);
      done = reached(sequence, terms.any, deadline);
    }
  }
  if (done) {
    // Another process may have left the mark.
    if (!durability_.behind(!terms.any) && behind_marked_.exchange(false)) mark_behind({});
    return;
  }
  if (!durability_.stopped() && Engine::running() != nullptr) fall_behind(ticket, terms, limit);
}

bool Database::refuses_writes(SyncTerms terms) {
  if (!terms.fail) return false;
  // At the end of the process: nothing more is shipped.
  return durability_.stopped() || Engine::is_stopped() || is_behind(terms.any);
}

// Asked at each commit until the replicas have caught up.
bool Database::is_behind(bool any) {
  const auto behind = durability_.behind(any);
  if (!behind) return false;
  // Who has only begun to ship knows no more than the notes of those before.
  if (role() != Role::shipping || durability_.end(any).sequence == 0) look_at_notes();
  return !caught_up(any, *behind);
}

void Database::shipped(std::size_t replica, Durability::End end) {
  durability_.shipped(replica, end);
  for (const bool any : {false, true}) {
    if (const auto behind = durability_.behind(any)) caught_up(any, *behind);
  }
}

// The replicas have the commit that was waited for in vain, and all that came later or nearly so:
// else the next one would only wait in vain, too.
bool Database::caught_up(bool any, const Durability::Behind& behind) {
  const auto end = durability_.end(any);
  const auto known = tail();
  if (!known) return false;
  const std::uint64_t wanted =
      behind.ticket == 0 ? behind.sequence : durability_.sequence_of(behind.ticket);
  // Another process's was committed before it said so.
  const bool passed = behind.ticket == 0 && end.sequence != 0 && end.commit_time >= behind.since;
  if (!passed && (wanted == 0 || end.sequence < wanted)) return false;
  if (end.sequence < known->last.sequence && now() - end.commit_time > behind.limit / 2) {
    return false;
  }
  if (durability_.catch_up(any)) {
    if (!durability_.behind(!any)) mark_behind({});
    log::info(behind.fail ? "the replica has caught up: writes go on"
                          : "the replica has caught up: commits wait for it again",
              {{"db", path()}});
  }
  return true;
}

void Database::fall_behind(std::uint64_t ticket, SyncTerms terms, std::chrono::milliseconds limit) {
  const Time since = now();
  if (!durability_.fall_behind(terms.any, {since, ticket, limit, terms.fail})) return;
  mark_behind(since);
  const std::string what =
      paused() ? "a commit is not in the replica, since replication pauses"
               : "a commit is not in the replica after " + std::to_string(limit.count()) + " ms";
  if (terms.fail && can_refuse()) {
    log::error(what + "; until it is, writes are refused (sync-policy: fail)", {{"db", path()}});
  } else {
    log::warn(what + "; until it is, commits do not wait for it", {{"db", path()}});
  }
}

// For those who look from outside. Best effort: the application does not wait for it.
void Database::mark_behind(Time since) noexcept {
  behind_marked_.store(since != Time{});
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (!lock.try_lock_for(kSoon * 10) || !outbox_) return;
  const std::int64_t mark = since.time_since_epoch().count();
  try {
    if (outbox_->behind() != mark) outbox_->set_behind(mark);
  } catch (const std::exception& e) {
    log::warn(e.what());
  }
}

}  // namespace sqlstream
