#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "shipper/database_parts.h"
#include "shipper/replicator.h"

namespace sqlstream {
namespace {

constexpr int kLooks = 5;  // behind a checkpoint whose end nothing tells of

std::chrono::nanoseconds shortest_interval(const DatabaseSettings& settings) {
  auto shortest = std::chrono::nanoseconds(std::chrono::hours(24));
  for (const auto& replica : settings.replicas)
    shortest = std::min(shortest, replica.sync_interval);
  return shortest;
}

std::int64_t now_ns() {
  return now().time_since_epoch().count();
}

}  // namespace

/// A mapping that stays meanwhile, for a background capture.
class Database::Borrowed {
 public:
  explicit Borrowed(Database& database) : database_(database) {
    const std::lock_guard pinning(database_.mapping_mutex_);
    mapping_ = database_.current_mapping();
    if (mapping_ == nullptr) return;
    regions_ = mapping_->regions;
    ++mapping_->readers;
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() {
    if (mapping_ == nullptr) return;
    const std::lock_guard unpinning(database_.mapping_mutex_);
    --mapping_->readers;
    database_.readers_gone_.notify_all();
  }

  explicit operator bool() const { return mapping_ != nullptr; }
  const std::vector<const volatile void*>& regions() const { return regions_; }
  const capture::FileIdentity& file() const { return mapping_->file; }

 private:
  Database& database_;
  Mapping* mapping_ = nullptr;
  std::vector<const volatile void*> regions_;
};

// Whoever has the lock may capture something large, here or in another process.
bool Database::lock_patiently(std::unique_lock<std::timed_mutex>& lock,
                              std::chrono::nanoseconds wait) const {
  if (lock.try_lock()) return true;
  const auto try_for = [&](std::chrono::nanoseconds part) { return lock.try_lock_for(part); };
  // Where there is a tail, the outbox was opened, and stays so.
  return tail() ? outbox_->while_captured(wait, try_for) : try_for(wait);
}

// Where there is a tail, the outbox was opened.
bool Database::has_waited_out() const {
  const std::int64_t at = waited_out_.load();
  return at != kNotWaited && at == (tail() ? outbox_->announced_beginning() : 0);
}

// `waited`: nothing where it was known before.
void Database::note_waited_out(std::chrono::nanoseconds waited) {
  waited_out_.store(tail() ? outbox_->announced_beginning() : 0);
  if (waited == std::chrono::nanoseconds(0)) return;
  try {
    log::info("waited in vain for a process that holds the capture lock", {{"db", path()}});
  } catch (const std::bad_alloc&) {
  }
}

capture::Outcome Database::capture(Mapping& own, const MapMore& map_more, bool must,
                                   std::chrono::nanoseconds patience) noexcept {
  return capture_at_hook(own, map_more, must, patience, {});
}

capture::Outcome Database::checkpoint_begins(Mapping& own, const MapMore& map_more,
                                             capture::CheckpointProgress before) noexcept {
  return capture_at_hook(own, map_more, true, std::chrono::nanoseconds::max(), before);
}

// Nothing depends on it: the next capture looks, too.
void Database::checkpoint_ended(const Mapping& own) noexcept try {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (!lock.try_lock_for(kSoon) || !capturer_) return;
  capture::Source source;
  source.regions = own.regions;
  source.opened = own.file;
  capturer_->checkpoint_ended(source);
} catch (const std::exception&) {
}

capture::Outcome Database::capture_at_hook(
    Mapping& own, const MapMore& map_more, bool must, std::chrono::nanoseconds patience,
    std::optional<capture::CheckpointProgress> checkpoint_begins) noexcept {
  const auto wait = must && has_waited_out()
                        ? std::chrono::nanoseconds(0)
                        : std::min<std::chrono::nanoseconds>(patience, kLongestWait);
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  try {
    if (!(must ? lock_patiently(lock, wait) : lock.try_lock_for(wait))) {
      if (must && !is_moved(own.file)) {
        note_waited_out(wait);
        alive_.store(false);
        // The mark needs no lock: it is one write to a file that stays open.
        const auto known = tail();
        if (known && outbox_) outbox_->end_generation(known->generation);
      }
      return capture::Outcome::busy;
    }
    capture::Source source;
    source.regions = own.regions;
    source.map_more = map_more;
    source.opened = own.file;
    source.checkpoint_begins = checkpoint_begins;
    return capture_from(std::move(source), wait, must);
  } catch (const std::exception&) {  // out of memory, or the mark cannot be written
    if (must && lock && capturer_ && !is_moved(own.file)) {
      capturer_->give_up("what is about to leave the WAL could not be captured");
      publish();
    }
    return capture::Outcome::failed;
  }
}

// Precondition: capture_mutex_ is held.
capture::Outcome Database::capture_from(capture::Source source, std::chrono::nanoseconds wait,
                                        bool must) {
  if (!open_outbox()) return capture::Outcome::failed;
  open_wal();
  source.wal_fd = wal_fd_.get();
  source.own_change = own_change_.load(std::memory_order_relaxed);
  source.own_commit_time = own_commit_time_.load(std::memory_order_relaxed);
  source.first_commit_time = first_commit_time_.exchange(0, std::memory_order_relaxed);
  if (session_new_.exchange(false)) capturer_->session_began();
  const std::uint64_t tickets = durability_.tickets();
  const auto opened = source.opened;
  source.recovered = recovered_.exchange(false);
  const auto outcome = capturer_->capture(source, wait, must);
  if (source.recovered && !seen_through(outcome)) recovered_.store(true);
  if (seen_through(outcome)) {
    if (opened && told_moved_ == opened->inode) told_moved_.reset();  // it is back
  }
  const bool missed = outcome == capture::Outcome::busy || outcome == capture::Outcome::failed ||
                      outcome == capture::Outcome::try_again;
  if (must && missed && !(opened && is_moved(*opened))) {
    if (outcome == capture::Outcome::busy) note_waited_out(wait);
    capturer_->give_up(outcome == capture::Outcome::busy
                           ? "another process held the capture lock for too long"
                           : "what is about to leave the WAL could not be captured");
  }
  if (outcome == capture::Outcome::moved) tell_moved(*opened);
  // Not every generation is begun for a commit, which would wake the background.
  if (publish(seen_through(outcome) ? tickets : 0)) wake();
  return outcome;
}

capture::Outcome Database::capture_in_background(bool* saw_wal_index) noexcept try {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  // Bounded, since a program may call exit() in a signal handler on a thread that is capturing.
  if (!lock.try_lock_for(kLongestWait)) return capture::Outcome::busy;
  const Borrowed borrowed(*this);
  if (saw_wal_index != nullptr) *saw_wal_index = static_cast<bool>(borrowed);
  if (borrowed) {
    capture::Source source;
    source.regions = borrowed.regions();
    source.opened = borrowed.file();
    const auto outcome = capture_from(std::move(source), kSoon * 10, false);
    if (const auto moved = capture::tells_moved(outcome)) set_moved(*moved);
    return outcome;
  }
  set_moved(false);
  if (connections_.load() == 0 || !open_outbox()) {
    return look() ? capture::Outcome::up_to_date : capture::Outcome::busy;
  }
  const std::uint64_t tickets = durability_.tickets();
  const auto outcome = capturer_->begin_from_file();
  publish(seen_through(outcome) ? tickets : 0);
  return outcome;
} catch (const std::exception&) {  // out of memory
  return capture::Outcome::failed;
}

Database::Sight Database::see() {
  bool saw_wal_index = false;
  const auto outcome = capture_in_background(&saw_wal_index);
  if (seen_through(outcome)) return saw_wal_index ? Sight::wal_index : Sight::outbox;
  return outcome == capture::Outcome::moved && look_anew() ? Sight::outbox : Sight::none;
}

// Precondition: capture_mutex_ is held. False: the outbox could not be looked at now.
bool Database::look() try {
  if (!open_outbox()) return false;
  const auto lock = outbox_->lock(kSoon * 10);
  if (!lock) {
    note_outbox_error({});  // it is only not known now
    return false;
  }
  outbox_->refresh();
  publish();
  note_outbox_error({});
  return true;
} catch (const std::bad_alloc&) {
  throw;
} catch (const std::exception& e) {
  note_outbox_error(e.what());
  return false;
}

// What another process captured. It will not say so again: not even want of memory is in the way.
bool Database::look_anew(std::string* fault) noexcept {
  while (true) {
    try {
      const std::lock_guard lock(capture_mutex_);
      const bool looked = look();
      if (fault != nullptr) *fault = outbox_error_;
      return looked;
    } catch (const std::bad_alloc&) {
      std::this_thread::sleep_for(kSoon);
    } catch (const std::exception&) {  // of the mutex
      return false;
    }
  }
}

void Database::note_new_wal(Mapping& own, std::optional<wal::Salt> salt) {
  const auto wait =
      has_waited_out() ? std::chrono::nanoseconds(0) : std::chrono::nanoseconds(kLongestWait);
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (!lock_patiently(lock, wait) || !open_outbox()) return;
  open_wal();
  capture::Source source;
  source.wal_fd = wal_fd_.get();
  source.regions = own.regions;
  source.opened = own.file;
  if (session_new_.exchange(false)) capturer_->session_began();
  if (!capturer_->note_new_wal(source, salt, wait)) note_waited_out(wait);
  publish();
}

void Database::note_clean_close(const Mapping& own) {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (!lock.try_lock_for(kLongestWait) || !capturer_) return;
  capturer_->note_clean_close(own.file);
  publish();
}

void Database::give_up(std::string_view why, std::optional<Generation> only) {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (!lock.try_lock_for(kLongestWait)) return;
  if (!capturer_) {
    if (::access(outbox_directory().c_str(), F_OK) != 0) return;  // nothing was ever captured
    if (!open_outbox()) return;
  }
  try {
    const auto outbox_lock = outbox_->lock(kSoon);
    if (outbox_lock) outbox_->refresh();
  } catch (const std::exception& e) {
    log::warn(e.what());
  }
  const auto& known = outbox_->tail();
  if (!only || (known && known->generation == *only)) capturer_->give_up(why);
  publish();
}

void Database::leave_wal() {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (!lock.try_lock_for(kLongestWait) || !open_outbox()) return;
  try {
    const auto outbox_lock = outbox_->lock(kLongestWait);
    if (!outbox_lock) return;
    outbox_->refresh();
    auto control = outbox_->control();
    control.left_wal = capture::file_tag(path());
    outbox_->set_control(control);
    log::warn("replication pauses: the application chose a journal mode other than WAL",
              {{"db", path()}});
  } catch (const std::exception& e) {
    log::error(e.what(), {{"db", path()}});
  }
}

bool Database::left_wal() {
  if (::access(outbox_directory().c_str(), F_OK) != 0) return false;
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (!lock.try_lock_for(kSoon)) return false;
  look();
  return has_left_wal();
}

// Precondition: capture_mutex_ is held.
bool Database::has_left_wal() const {
  const std::uint32_t left = outbox_ ? outbox_->control().left_wal : 0;
  return left != 0 && left == capture::file_tag(path());
}

void Database::set_obstacle(const std::string& obstacle, bool refusable) {
  const std::lock_guard lock(status_mutex_);
  refusable_ = refusable;
  if (obstacle_ == obstacle) return;
  obstacle_ = obstacle;
  if (!obstacle.empty()) log::warn("replication pauses: " + obstacle, {{"db", path()}});
}

void Database::committed(std::uint32_t change) noexcept {
  const std::int64_t time = now_ns();
  own_commit_time_.store(time, std::memory_order_relaxed);
  own_change_.store(change, std::memory_order_relaxed);
  std::int64_t none = 0;
  first_commit_time_.compare_exchange_strong(none, time, std::memory_order_relaxed);
  wake();
}

void Database::wake() noexcept {
  if (dirty_.load(std::memory_order_relaxed) || dirty_.exchange(true)) return;
  const bool heard = start();
  tell(kCapture);
  // There were no threads to be had: the next commit tries again.
  if (!heard) dirty_.store(false);
}

void Database::look_behind_checkpoint() noexcept {
  checkpointing_.store(kLooks);
  wake();
}

// False: it has not come to its end, and goes on.
bool Database::is_checkpoint_over() {
  const auto look = look_at_wal_index();
  const bool steady = !look || look->progress.begun != UINT32_MAX;
  const bool over = steady && (!look || look->progress.begun == look->progress.done);
  if (!over && checkpointing_.fetch_sub(1) > 1) return false;
  checkpointing_.store(0);
  return true;
}

void Database::capture_soon() noexcept {
  if (!soon_.load(std::memory_order_relaxed) && !soon_.exchange(true)) tell(kCapture);
}

// Pieces of the WAL that are captured one after the other. A commit says that there is one; while
// the next follows within a few ms, nobody need say so: it would be among the slowest commits.
struct Database::Pieces {
  static constexpr auto kNotDue = steady_clock::time_point::max();
  steady_clock::time_point due = kNotDue;  // the next one
  steady_clock::time_point at{};           // the last one was captured then,
  std::uint64_t frames = 0;                // and so many frames by then
};

asio::awaitable<void> Database::capture_piece(Database& self, Pieces& pieces) {
  constexpr steady_clock::duration kShortest = std::chrono::milliseconds(1);
  const bool said = pieces.due == Pieces::kNotDue;
  const auto since = std::exchange(pieces.at, steady_clock::now());
  const std::uint64_t frames = co_await on_worker([&] {
    self.capture_in_background();
    return self.frames_.load();
  });
  const auto gained = static_cast<std::int64_t>(frames - std::exchange(pieces.frames, frames));
  auto pause = steady_clock::duration::max();
  if (said) {
    pause = kShortest;
  } else if (gained > 0) {
    pause = (pieces.at - since) * kPiece / gained;
  }
  const bool soon = pause <= kSoon * 2;
  pieces.due = soon ? pieces.at + std::max(pause, kShortest) : Pieces::kNotDue;
  if (!soon) self.soon_.store(false);
}

asio::awaitable<void> Database::capture_loop(Self self) {
  const auto interval = shortest_interval(self->settings_);
  steady_clock::time_point last{};
  std::uint32_t change = self->own_change_.load();
  self->capture_signal_.notify();
  // Any of the waits may be the one that hears of the end.
  while (!self->closed_) {
    co_await self->capture_signal_.wait();
    if (self->closed_) co_return;
    Pieces pieces;
    while (!self->flushing() && steady_clock::now() < last + interval && !self->closed_) {
      co_await self->capture_signal_.wait_until(std::min(pieces.due, last + interval));
      const bool due = pieces.due == Pieces::kNotDue || steady_clock::now() >= pieces.due;
      if (due && self->soon_.load()) co_await capture_piece(*self, pieces);
    }
    self->soon_.store(false);
    self->dirty_.store(false);
    const std::uint32_t committed = self->own_change_.load();
    bool over = true;  // before the capture, which looks at the file that it left
    const auto outcome = co_await on_worker([&] {
      over = self->checkpointing_.load() == 0 || self->is_checkpoint_over();
      return self->capture_in_background();
    });
    const auto looked = steady_clock::now();
    // A look that no commit asked for, as an open's, and that found none does not hold up the
    // first.
    const bool none = std::exchange(change, committed) == committed;
    if (!none || outcome != capture::Outcome::up_to_date) last = looked;
    const bool again = outcome == capture::Outcome::try_again;
    if ((again || outcome == capture::Outcome::waiting || outcome == capture::Outcome::failed ||
         outcome == capture::Outcome::busy) &&
        self->has_mapping()) {
      co_await self->capture_signal_.wait_until(looked + (again
                                                              ? std::chrono::nanoseconds(kSoon * 10)
                                                              : std::chrono::nanoseconds(kRetry)));
      self->capture_signal_.notify();
    }
    if (!over) {
      co_await self->capture_signal_.wait_until(looked + kRetry);
      self->capture_signal_.notify();
    }
    // With no client here, and none elsewhere, whoever takes the role looks for himself.
    if (self->replicators_.empty() && outcome != capture::Outcome::moved &&
        !co_await on_worker([&] { return self->tell_news(); }) &&
        (self->failed_to_prepare_ == 0 || self->role() == Role::watching)) {
      co_await self->capture_signal_.wait_until(looked + kRetry);
      self->capture_signal_.notify();
    }
    for (const auto& replicator : self->replicators_) replicator->notify();
    // It may be the outbox's bound that is waited for, and all be in the replicas already.
    if (outcome == capture::Outcome::waiting && !self->replicators_.empty()) {
      co_await on_worker([&] {
        try {
          self->trim();
        } catch (const std::bad_alloc&) {
          throw;
        } catch (const std::exception&) {  // it comes here again
        }
      });
    }
  }
}

void Database::hurry() {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (lock.try_lock_for(kLongestWait) && capturer_) capturer_->hurry();
}

}  // namespace sqlstream
