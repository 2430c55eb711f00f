#include <algorithm>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "shipper/database_parts.h"

namespace sqlstream {
namespace {

constexpr auto kRefusedPatience = std::chrono::milliseconds(1500);
constexpr const char* kCutShort =
    "the program ends before all that was committed is in the replica: the next one that opens the "
    "database ships it; raise shutdown-timeout, or run \"sqlstream sync\"";

}  // namespace

void Database::validating(int more) {
  const std::lock_guard lock(status_mutex_);
  validations_ += more;
  status_changed_.notify_all();
}

void Database::tidying(int more) {
  const std::lock_guard lock(status_mutex_);
  tidied_ += more;
  status_changed_.notify_all();
}

bool Database::tell_who_ships(std::chrono::nanoseconds patience) {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (!lock.try_lock_for(patience)) return false;
  return !outbox_ || moved_.load() || outbox_->poke();
}

// Hears of nothing any more, gives the role up and does not take it again. False: not in time.
bool Database::step_aside(steady_clock::time_point deadline) {
  leaving_.store(true);
  tell(kRole);
  std::unique_lock lock(status_mutex_);
  const auto until = std::min(deadline, steady_clock::now() + kLongestWait);
  return status_changed_.wait_until(lock, until, [this] { return has_stepped_aside(); });
}

// Precondition: status_mutex_ is held.
bool Database::has_stepped_aside() const {
  return role_ == Role::left || (role_ == Role::shipping && deaf_);
}

// In the shipping again.
void Database::take_part() {
  {
    const std::lock_guard lock(status_mutex_);
    if (!leaving_.exchange(false)) return;
    if (!closed_.load() && has_stepped_aside()) change_role(Role::none);
  }
  tell(kRole);
}

// On the engine's thread, which does not have it now. True: it is for others.
bool Database::leave_role() {
  const std::lock_guard lock(status_mutex_);
  if (leaving_.load()) change_role(Role::left);
  return leaving_.load();
}

void Database::flush(steady_clock::time_point deadline, bool last) {
  // Another process captures, or commits: it takes moments.
  const auto soon = std::min(deadline, steady_clock::now() + kLongestWait);
  auto outcome = capture_in_background();
  while ((outcome == capture::Outcome::busy || outcome == capture::Outcome::try_again) &&
         has_mapping() && steady_clock::now() < soon) {
    std::this_thread::sleep_for(kSoon);
    outcome = capture_in_background();
  }
  if (outcome == capture::Outcome::waiting) {
    const std::lock_guard lock(status_mutex_);
    if (!capture_error_.empty()) {
      log::warn("what was committed last is not shipped: " + capture_error_, {{"db", path()}});
    }
  }
  const auto left = [deadline] {
    return std::clamp<std::chrono::nanoseconds>(deadline - steady_clock::now(), kSoon,
                                                kLongestWait);
  };
  tell_who_ships(left());  // this process will not live to do it later
  Engine* engine = Engine::running();
  if (!started_.load() || engine == nullptr || !engine->start()) return;
  take_part();
  const Flushing flushing(*this, kEnd);
  // A store that says no gets a second chance, not the whole time: the outbox keeps what is left.
  const auto patience = std::min(deadline, steady_clock::now() + kRefusedPatience);
  // For all databases of the program together.
  const auto tidied_until =
      std::min(deadline, deadline - settings_.shutdown_timeout + kRefusedPatience);
  std::uint64_t target = 0;
  const auto settled = [&](bool refused_counts) {
    return std::all_of(replica_status_.begin(), replica_status_.end(), [&](const auto& status) {
      return status.settled >= target || (refused_counts && !status.error.empty());
    });
  };
  const auto done = [&](bool refused_counts) {
    if (validations_ > 0) return false;
    if (!tail_ || role_ == Role::watching || role_ == Role::left) return true;
    if (role_ != Role::shipping) return refused_counts && !role_error_.empty();
    if (moved_.load()) return true;  // nothing that was committed here is to be shipped
    return settled(refused_counts);
  };
  while (true) {
    std::optional<std::uint64_t> known;  // of what there is to ship, when it was done or given up
    bool cut_short = false;
    {
      std::unique_lock lock(status_mutex_);
      // Not what others commit meanwhile, who may do so for ever.
      target = tail_ ? tail_->last.sequence : 0;
      if (!status_changed_.wait_until(lock, patience, [&] { return done(false); })) {
        status_changed_.wait_until(lock, deadline, [&] { return done(true); });
      }
      if (last) {
        status_changed_.wait_until(lock, tidied_until,
                                   [&] { return tidied_ == 0 || role_ != Role::shipping; });
      }
      if (!last) return;
      if (role_ == Role::shipping) {
        known = target;
        // Of an error something was said when it came.
        cut_short = steady_clock::now() >= deadline && !moved_.load() && !settled(true);
      } else if (role_ != Role::watching) {
        return;
      }
    }
    if (cut_short) log::warn(kCutShort, {{"db", path()}});
    // First aside, then the look: who told this process something before is seen, and who comes
    // later finds nobody that hears, and takes the role himself.
    const bool aside = step_aside(deadline);
    if (closed_.load() || steady_clock::now() >= deadline) return;
    if (aside && known && !has_more_than(*known)) return;
    {
      // What is under way with the store comes to its end; until then nobody can take the role.
      std::unique_lock lock(status_mutex_);
      status_changed_.wait_until(lock, std::min(deadline, steady_clock::now() + kLongestWait),
                                 [this] { return role_ == Role::left; });
    }
    // Somebody may just be taking the role.
    const auto taken = std::min(deadline, steady_clock::now() + 3 * kTakeOverPause);
    while (aside) {
      if (tell_who_ships(left())) return;
      if (steady_clock::now() >= taken) break;
      std::this_thread::sleep_for(kSoon);
    }
    take_part();
    std::this_thread::sleep_for(kSoon);
  }
}

void Database::wait_left(steady_clock::time_point deadline) {
  Engine* engine = Engine::running();
  if (engine == nullptr || !engine->start()) return;
  std::unique_lock lock(status_mutex_);
  if (status_changed_.wait_until(lock, deadline, [this] { return role_ == Role::left; })) return;
  lock.unlock();
  log::warn(kCutShort, {{"db", path()}});
}

void Database::let_go() noexcept {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (lock.try_lock_for(kSoon) && outbox_ && outbox_->has_role()) outbox_->release_role();
}

}  // namespace sqlstream
