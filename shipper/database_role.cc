#include <algorithm>
#include <array>
#include <cstring>
#include <unistd.h>
#include <utility>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/scheduling.h"
#include "shipper/database_parts.h"
#include "shipper/replicator.h"
#include "shipper/validation.h"

namespace sqlstream {
namespace {

constexpr auto kLinger = std::chrono::seconds(2);  // without connections, before the role is left
constexpr int kMostUnused = 32;                    // databases that linger
constexpr auto kBlindPause = std::chrono::milliseconds(150);
constexpr auto kLongestTurn = std::chrono::minutes(10);
constexpr auto kTurn = std::chrono::seconds(10);   // of who ships, and has no longer the file open
constexpr auto kUntold = std::chrono::seconds(5);  // between looks for what nobody told of
constexpr auto kLongestUntold = std::chrono::seconds(60);
constexpr std::size_t kFewDatabases = 100;
constexpr int kOutageTurns = 6;

}  // namespace

// A look that found nothing is none, and a program may ask for many: one each time it opens the
// database. False: nobody could be told now, as when there is no descriptor to be had.
bool Database::tell_news() {
  const std::lock_guard lock(capture_mutex_);
  if (!outbox_ || !outbox_->tail()) return true;
  const auto& tail = *outbox_->tail();
  const ToldOf news{tail.generation, tail.last.sequence, outbox_->generation_alive()};
  if (news == told_of_) return true;
  if (!outbox_->poke()) return false;
  told_of_ = news;
  return true;
}

// That the outbox cannot be opened is said elsewhere.
void Database::set_role_error(const std::string& error) {
  std::string copy = error;  // not under the lock: this thread may wait for memory
  bool said = false;
  {
    const std::lock_guard lock(status_mutex_);
    role_error_.swap(copy);
    said = capture_error_ == error;
  }
  if (error.empty() || said || role_error_said_ == error) return;
  role_error_said_ = error;
  log::error("nothing can be shipped: " + error, {{"db", path()}});
}

// Who has another file open than the one that is there, or no wal-index where one is needed.
bool Database::others_first() {
  return connections_.load() > 0 && (moved_.load() || (blind_.load() && !has_mapping()));
}

asio::awaitable<void> Database::leave_role_to_others() {
  set_role(Role::none);  // an exit waits until somebody has it
  const auto until = steady_clock::now() + kRetry;
  const bool unused = connections_.load() == 0;
  const auto wanted_here = [&] {
    return (unused && connections_.load() > 0) || ((unused || gives_way_) && ending());
  };
  while (steady_clock::now() < until && !closed_ && !leaving_.load() && !wanted_here()) {
    // Neither an end nor a connection that opens says so here.
    co_await role_signal_.wait_until(std::min(until, steady_clock::now() + kSoon * 10));
  }
}

asio::awaitable<void> Database::role_loop(Self self) {
  std::optional<steady_clock::time_point> in_vain_since;  // with nobody that has it open
  std::uint64_t opened = 0;
  while (!self->closed_) {
    if (self->leave_role()) {
      co_await self->role_signal_.wait();
      continue;
    }
    // Who has the file that is there now can do all that is to be done, so he comes first.
    if (self->others_first()) {
      self->turn_ = std::min<steady_clock::duration>(self->turn_ * 2, kLongestTurn);
      self->blind_.store(false);
      co_await self->leave_role_to_others();
      if (self->leaving_.load()) continue;
    } else {
      self->turn_ = kTurn;
    }
    std::string error;
    try {
      co_await self->take_turn();
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& e) {
      error = text_of(e);
    }
    if (error.empty()) {
      in_vain_since.reset();
      continue;
    }
    self->set_role(Role::none);
    self->set_role_error(error);
    const auto failed = steady_clock::now();
    // What the settings are in the way of will be the same in a second, and whatever is told.
    const auto again = failed + kRetry * (1 << std::clamp(self->failed_to_prepare_ - 1, 0, 5));
    do {
      co_await self->role_signal_.wait_until(again);
    } while (self->failed_to_prepare_ > 0 && steady_clock::now() < again && !self->closed_ &&
             !self->leaving_.load());
    // What it was told of last is still to be shipped, by nobody else if they have ended.
    const bool used = self->connections_.load() > 0 ||
                      std::exchange(opened, self->opened_.load()) != self->opened_.load();
    if (used || !in_vain_since) {
      in_vain_since = failed;
    } else if (steady_clock::now() >= *in_vain_since + kTurn) {
      self->closed_ = self->close_if_unused(opened);
    }
  }
  self->set_role(Role::left);
  self->forget_retired();
  self->capture_signal_.notify();
}

// Holds the role for as long as that is right, or waits until it may be had. Throws when the outbox
// cannot be used.
asio::awaitable<void> Database::take_turn() {
  const bool watched = role() == Role::watching;
  const bool taken = co_await on_worker([&] {
    const std::lock_guard lock(capture_mutex_);
    if (!open_outbox()) throw Error(outbox_error_);
    return outbox_->try_take_role();
  });
  if (!taken) {
    set_role_error({});
    set_role(Role::watching);
    co_await watch_role();
    co_return;
  }
  set_deaf(false);
  set_role(Role::shipping);
  co_await prepare_role();
  set_role_error({});
  // Who had the role before may have given way, for what is not shipped yet.
  if (const auto known = tail(); known && watched) told_of_others_ = known->last.sequence;
  const auto shipped = co_await hold_role();
  const std::uint64_t opened = opened_.load();
  const bool unused = connections_.load() == 0;  // in this order: who comes later is seen
  if (shipped && unused && !co_await on_worker([&] { return has_more_than(*shipped); })) {
    closed_ = close_if_unused(opened);
  } else if (connections_.load() == 0 || gives_way_) {
    // Who writes may have it; without connections here a generation cannot be begun.
    if (gives_way_) patience_ = std::min<steady_clock::duration>(patience_ * 2, kLongestTurn);
    co_await leave_role_to_others();
  }
  if (!closed_) set_role(Role::none);
}

// Throws when it cannot be held now; then it is not.
asio::awaitable<void> Database::prepare_role() {
  replicators_.clear();
  co_await on_worker([&] {
    const std::lock_guard lock(capture_mutex_);
    // Where another process only holds the lock, what is known already can be shipped.
    if (!look() && !outbox_error_.empty()) {
      outbox_->release_role();
      throw Error(outbox_error_);
    }
    try {
      remove_validations(outbox_directory());
      tidy_up_snapshot();
      finish_fold(outbox_directory(), outbox_->log_files());
    } catch (const std::exception& e) {
      log::warn(e.what(), {{"db", path()}});
    }
  });
  std::string error;
  for (std::size_t i = 0; i < settings_.replicas.size(); ++i) {
    try {
      replicators_.push_back(std::make_unique<Replicator>(*this, i));
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& e) {
      error = e.what();
      {
        const std::lock_guard lock(status_mutex_);
        if (replica_status_[i].error == error) continue;  // said before
      }
      log::error(error, {{"db", path()}, {"replica", settings_.replicas[i].name}});
      ReplicaStatus status;
      status.error = error;
      status.error_since = now();
      set_status(i, status);
    }
  }
  failed_to_prepare_ = replicators_.empty() ? failed_to_prepare_ + 1 : 0;
  if (!replicators_.empty()) co_return;
  // Another process may have other settings.
  co_await on_worker([&] {
    const std::lock_guard lock(capture_mutex_);
    outbox_->release_role();
  });
  role_error_said_ = error;
  throw Error(error);
}

// A program that opens them in turn, again and again, need not be slow; but each takes descriptors
// of the program's.
std::chrono::nanoseconds Database::linger() {
  Registry& all = Registry::get();
  const std::lock_guard lock(all.mutex);
  const auto unused = std::count_if(all.databases.begin(), all.databases.end(),
                                    [](const auto& one) { return one->connections_.load() == 0; });
  return unused > kMostUnused ? std::chrono::nanoseconds(0) : std::chrono::nanoseconds(kLinger);
}

// Who captured something while the role was held here may have told of it in vain. Who does from
// now on cannot tell, and waits for the role.
bool Database::has_more_than(std::uint64_t shipped) try {
  {
    // Bounded, as all that an exit does.
    std::unique_lock lock(capture_mutex_, std::defer_lock);
    if (!lock.try_lock_for(kLongestWait) || !look()) return true;
  }
  const auto known = tail();
  return known && known->last.sequence != shipped;
} catch (const std::exception&) {
  return true;  // it cannot be told now
}

asio::awaitable<std::optional<std::uint64_t>> Database::hold_role() {
  const auto self = shared_from_this();
  std::optional<std::uint64_t> shipped;
  const auto executor = Engine::get().executor();
  std::optional<steady_clock::time_point> turn_ends;
  std::optional<steady_clock::time_point> unused_until;
  const auto others_commit = [&] { return steady_clock::now() < poked_at_ + kTurn; };
  const auto writes_snapshot = [&] {
    return std::ranges::any_of(replicators_,
                               [](const auto& each) { return each->writes_snapshot(); });
  };
  std::uint64_t opened = opened_.load();
  role_over_ = role_wanted_ = gives_way_ = false;
  blind_.store(false);
  std::size_t running = replicators_.size() + 2;
  const auto ended = [this, self, &running](const std::exception_ptr&) {
    --running;
    role_signal_.notify();
  };
  for (const auto& replicator : replicators_) {
    asio::co_spawn(executor, replicator->run(), ended);
  }
  bool hears = true;
  std::exception_ptr deafened;
  const auto deaf = [&](const std::exception_ptr& error) {
    hears = false;
    deafened = error;
    ended(error);
  };
  asio::co_spawn(executor, despite_memory([self] { return read_wakes(self); }), deaf);
  asio::co_spawn(executor, despite_memory([self] { return bound_outbox(self); }), ended);
  if (!std::exchange(Registry::get().looks, true)) {
    asio::co_spawn(executor, despite_memory([] { return look_for_untold(); }),
                   [](const std::exception_ptr&) {});
  }
  // Who had it may have been killed before it captured what it committed last.
  capture_signal_.notify();

  while (!role_over_ && !leaving_.load() && !deafened) {
    const auto gives_way_at = patience_ends();
    if (gives_way_at && steady_clock::now() >= *gives_way_at) {
      role_over_ = gives_way_ = true;
      continue;
    }
    const auto until = [&](steady_clock::time_point time) {
      return role_signal_.wait_until(std::min(time, gives_way_at.value_or(time)));
    };
    if (!others_first()) turn_ends.reset();
    if (opened != opened_.load() || connections_.load() > 0) unused_until.reset();
    opened = opened_.load();
    if (others_first()) {
      if (!turn_ends) turn_ends = steady_clock::now() + turn_;
      const auto wanted = [&] { return moved_.load() ? role_wanted_ : others_commit(); };
      if (!wanted()) co_await until(*turn_ends);
      role_over_ = others_first() && (wanted() || steady_clock::now() >= *turn_ends);
    } else if (connections_.load() > 0) {
      co_await until(steady_clock::time_point::max());
    } else {
      // However busy others keep it; at once where they wait for what only they can do. But a
      // snapshot that is broken off begins from nothing at the next one, and may again and again
      // where nobody has it open for long: it goes on, and what only others can prove fails.
      if (!unused_until) unused_until = steady_clock::now() + linger();
      const bool lingers = steady_clock::now() < *unused_until;
      const auto known = tail();
      const bool all = drained();
      role_over_ =
          !writes_snapshot() && (others_commit() ? blind_.load() || !lingers : !lingers && all);
      if (role_over_ && all) shipped = known ? known->last.sequence : 0;
      if (!role_over_) {
        co_await until(lingers ? *unused_until : steady_clock::time_point::max());
      }
    }
  }
  role_over_ = true;
  for (const auto& replicator : replicators_) replicator->stop();
  fold_signal_.notify();
  if (stop_watching_) stop_watching_();
  // Who tells of something finds no ear from now on, and waits for the role, while what is under
  // way with the store comes to its end.
  while (hears) co_await role_signal_.wait();
  co_await on_worker([&] {
    const std::lock_guard lock(capture_mutex_);
    outbox_->stop_hearing();
  });
  set_deaf(true);
  while (running > 0) co_await role_signal_.wait();
  replicators_.clear();
  co_await on_worker([&] {
    const std::lock_guard lock(capture_mutex_);
    outbox_->release_role();
  });
  if (deafened) std::rethrow_exception(deafened);
  co_return shipped;
}

// When the role is left to others who wait for something, since no store takes anything from here:
// another process may have other credentials, or another network. Where it has not, whoever has the
// role has it for longer each time. Empty: not for now; the end of what is tried is told.
std::optional<steady_clock::time_point> Database::patience_ends() {
  std::optional<steady_clock::time_point> ends;
  bool others_wait = false;
  for (const auto& replicator : replicators_) {
    if (replicator->takes_data()) {
      patience_ = kTurn;
      return std::nullopt;
    }
    const auto failing = replicator->failing();
    if (!failing) return std::nullopt;
    // An outage is everybody's, mostly.
    const auto end = failing->since + (failing->refused ? patience_ : kOutageTurns * patience_);
    if (!ends || *ends < end) ends = end;
    others_wait |= !replicator->settled(told_of_others_);
  }
  return others_wait ? ends : std::nullopt;
}

// Who was killed between a commit and its capture, or before it could tell of it, tells nobody, and
// nor does a program without the shim. One timer for all databases, and no system call: what has
// the wal-index mapped reads it. Of very many it is read less often: none of that is in a cache.
asio::awaitable<void> Database::look_for_untold() {
  asio::steady_timer timer(Engine::get().executor());
  std::size_t shipped = 0;
  do {
    timer.expires_after(
        std::clamp(kUntold * static_cast<int>(shipped / kFewDatabases), kUntold, kLongestUntold));
    co_await timer.async_wait(asio::use_awaitable);
    shipped = 0;
    for (const auto& database : all()) {
      if (database->replicators_.empty()) continue;
      ++shipped;
      if (database->is_changed_wal()) database->capture_signal_.notify();
    }
  } while (shipped > 0);
  Registry::get().looks = false;
}

// Since the last time, or at first since it was captured. What was captured meanwhile costs a look
// at the outbox.
bool Database::is_changed_wal() {
  const auto captured = seen_wal_ ? std::nullopt : tail();
  const std::lock_guard pinned(mapping_mutex_);
  if (mappings_.empty() || mappings_.front()->regions.empty()) return false;
  const volatile void* region0 = mappings_.front()->regions.front();
  const std::pair seen{capture::peek_change(region0), capture::peek_frames(region0)};
  if (captured) {
    seen_wal_.emplace(captured->last.source.change, captured->last.source.frame);
  }
  return std::exchange(seen_wal_, seen) != seen;
}

asio::awaitable<void> Database::read_wakes(Self self) {
  // The descriptor is the outbox's; a copy would outlive it in a forked child.
  const auto executor = Engine::get().executor();
  struct Ear : asio::posix::stream_descriptor {
    Ear(const asio::any_io_executor& e, Database& database)
        : asio::posix::stream_descriptor(e, database.outbox_->wake_reader()), of(database) {}
    Ear(const Ear&) = delete;
    Ear& operator=(const Ear&) = delete;
    ~Ear() {
      release();
      of.stop_watching_ = nullptr;
    }
    Database& of;
  };
  Ear wakes(executor, *self);
  asio::steady_timer again(executor);
  self->stop_watching_ = [&] {
    if (!self->role_over_) return;  // asked also when a connection closes
    wakes.cancel();
    again.cancel();
  };
  bool at_once = false;
  for (bool poked = false; !self->role_over_; poked = true) {
    // Nobody says it again: what cannot be looked at now is looked at until it can, but for a fault
    // that stays: then the role is for others.
    std::string fault;
    auto since = steady_clock::now();
    while (!co_await on_worker([&] {
      const bool looked = self->look_anew(&fault);
      self->notice_moved();
      return looked;
    }) && !self->role_over_) {
      if (fault.empty()) since = steady_clock::now();
      if (steady_clock::now() > since + kRetry) throw Error(fault);
      again.expires_after(kSoon * 20);
      co_await again.async_wait(asio::as_tuple(asio::use_awaitable));
    }
    if (poked) {
      // Whoever captures has the file that is there, and most likely a wal-index.
      self->poked_at_ = steady_clock::now();
      if (const auto known = self->tail()) self->told_of_others_ = known->last.sequence;
      if (self->moved_.load()) self->role_wanted_ = true;
      if (self->role_wanted_ || self->blind_.load() || self->connections_.load() == 0 ||
          self->patience_ends()) {
        self->role_signal_.notify();
      }
    }
    if (std::exchange(at_once, false)) {
      somebody_waits();
      if (const auto known = self->tail()) raise_to(self->hurry_, known->last.sequence);
    }
    for (const auto& replicator : self->replicators_) replicator->notify();

    if (self->role_over_) break;  // nobody would end the wait
    self->role_error_said_.clear();
    const auto [error] = co_await wakes.async_wait(asio::posix::descriptor_base::wait_read,
                                                   asio::as_tuple(asio::use_awaitable));
    if (error && self->role_over_) break;
    if (error) throw boost::system::system_error(error, "cannot wait for who captures");
    std::array<char, 512> bytes{};
    ssize_t n = 0;
    while ((n = ::read(wakes.native_handle(), bytes.data(), bytes.size())) > 0) {
      at_once |= std::memchr(bytes.data(), capture::Outbox::kShipAtOnce,
                             static_cast<std::size_t>(n)) != nullptr;
    }
  }
}

asio::awaitable<void> Database::watch_role() {
  const auto executor = Engine::get().executor();
  UniqueFd fd(outbox_->watch_role());
  // All that watch hear of its end at once: who sees the wal-index comes first.
  const auto blind = [this] { return connections_.load() > 0 && !has_mapping(); };
  if (!fd) {
    // Between its lock and its pipe, or at its end: look again soon.
    co_await role_signal_.wait_until(steady_clock::now() +
                                     (blind() ? kBlindPause : kTakeOverPause));
  } else {
    asio::posix::stream_descriptor holder(executor);
    holder.assign(fd.get());
    fd.release();
    stop_watching_ = [&] {
      if (connections_.load() == 0 || leaving_.load()) holder.cancel();
    };
    if (connections_.load() > 0 && !leaving_.load()) {
      co_await holder.async_wait(asio::posix::descriptor_base::wait_error,
                                 asio::as_tuple(asio::use_awaitable));
    }
    stop_watching_ = nullptr;
    if (blind()) co_await role_signal_.wait_until(steady_clock::now() + kBlindPause);
  }
  const std::uint64_t opened = opened_.load();
  if (connections_.load() == 0) {
    // Here and not later: an exit tells for itself as long as the database is known.
    if (co_await on_worker([&] { return tell_who_ships(kLongestWait); })) {
      closed_ = close_if_unused(opened);
    }
  }
}

bool Database::drained() const {
  const auto known = tail();
  if (!known) return true;
  return std::all_of(replicators_.begin(), replicators_.end(), [&](const auto& replicator) {
    return replicator->settled(known->last.sequence);
  });
}

Database::Role Database::role() const {
  const std::lock_guard lock(status_mutex_);
  return role_;
}

void Database::set_role(Role role) {
  const std::lock_guard lock(status_mutex_);
  change_role(role);
}

// Precondition: status_mutex_ is held.
void Database::change_role(Role role) {
  if (role_ != role) role_since_ = now();
  role_ = role;
  status_changed_.notify_all();
}

void Database::set_deaf(bool deaf) {
  const std::lock_guard lock(status_mutex_);
  deaf_ = deaf;
  status_changed_.notify_all();
}

}  // namespace sqlstream
