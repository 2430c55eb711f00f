#include <algorithm>
#include <list>
#include <thread>

#include "base/guarded.h"
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

// What is committed is captured, and shipped without pacing from now on. Null: nothing is left to
// do here.
std::unique_ptr<Database::Flushing> Database::begin_flush(steady_clock::time_point deadline) {
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
  tell_who_ships(std::clamp<std::chrono::nanoseconds>(
      deadline - steady_clock::now(), kSoon,
      kLongestWait));  // this process will not live to do it later
  Engine* engine = Engine::running();
  if (!started_.load() || engine == nullptr || !engine->start()) return nullptr;
  take_part();
  return std::make_unique<Flushing>(*this, kEnd);
}

bool Database::finish_flush(steady_clock::time_point until, bool patient,
                            steady_clock::time_point deadline, bool last) {
  const auto left = [deadline] {
    return std::clamp<std::chrono::nanoseconds>(deadline - steady_clock::now(), kSoon,
                                                kLongestWait);
  };
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
      // A store that says no gets a second chance, not the whole time: the outbox keeps what is
      // left.
      const bool ended = status_changed_.wait_until(lock, until, [&] { return done(patient); });
      if (!ended && !patient) return false;
      if (last) {
        status_changed_.wait_until(lock, tidied_until,
                                   [&] { return tidied_ == 0 || role_ != Role::shipping; });
      }
      if (!last) return true;
      if (role_ == Role::shipping) {
        known = target;
        // Of an error something was said when it came.
        cut_short = steady_clock::now() >= deadline && !moved_.load() && !settled(true);
      } else if (role_ != Role::watching) {
        return true;
      }
    }
    if (cut_short) log::warn(kCutShort, {{"db", path()}});
    // First aside, then the look: who told this process something before is seen, and who comes
    // later finds nobody that hears, and takes the role himself.
    const bool aside = step_aside(deadline);
    if (closed_.load() || steady_clock::now() >= deadline) return true;
    if (aside && known && !has_more_than(*known)) return true;
    {
      // What is under way with the store comes to its end; until then nobody can take the role.
      std::unique_lock lock(status_mutex_);
      status_changed_.wait_until(lock, std::min(deadline, steady_clock::now() + kLongestWait),
                                 [this] { return role_ == Role::left; });
    }
    // Somebody may just be taking the role.
    const auto taken = std::min(deadline, steady_clock::now() + 3 * kTakeOverPause);
    while (aside) {
      if (tell_who_ships(left())) return true;
      if (steady_clock::now() >= taken) break;
      std::this_thread::sleep_for(kSoon);
    }
    take_part();
    std::this_thread::sleep_for(kSoon);
  }
}

bool Database::wait_left(steady_clock::time_point until) {
  Engine* engine = Engine::running();
  if (engine == nullptr || !engine->start()) return true;
  std::unique_lock lock(status_mutex_);
  return status_changed_.wait_until(lock, until, [this] { return role_ == Role::left; });
}

// All are shipped at the same time. Who is not done soon, as where a store does not answer, is
// waited for when all others are.
void Database::flush_all(bool hurry) {
  if (Engine::running() == nullptr) return;
  const auto begun = steady_clock::now();
  const auto deadline_of = [begun](const Self& one) {
    return begun + one->settings().shutdown_timeout;
  };
  // A list moves none of them: in an assignment a database would go before what refers to it.
  std::list<std::pair<Self, std::unique_ptr<Flushing>>> left;
  for (const auto& database : all()) {
    if (!database->ours()) continue;
    guarded("flushing", [&] {
      if (hurry) database->hurry();
      if (auto flushing = database->begin_flush(deadline_of(database))) {
        left.emplace_back(database, std::move(flushing));
      }
    });
  }
  for (const bool patient : {false, true}) {
    const auto until = [&](const Self& one) {
      const auto deadline = deadline_of(one);
      return patient ? deadline : std::min(deadline, begun + kRefusedPatience);
    };
    std::vector<Self> in_the_way;
    for (const auto& old : retired()) {
      if (!old->ours() || old->wait_left(until(old))) continue;
      in_the_way.push_back(old);
      if (patient) log::warn(kCutShort, {{"db", old->path()}});
    }
    std::erase_if(left, [&](const auto& one) {
      const Self& database = one.first;
      const auto has_its_role = [&](const Self& old) { return old->path() == database->path(); };
      if (!patient && std::ranges::any_of(in_the_way, has_its_role)) return false;
      bool done = true;
      guarded("flushing", [&] {
        done = database->finish_flush(until(database), patient, deadline_of(database), !hurry);
      });
      return done;
    });
  }
}

void Database::end_all(bool engine_ended) {
  for (const auto& database : retired()) {
    if (engine_ended && database->ours()) database->let_go();
  }
  for (const auto& database : all()) {
    if (!database->ours()) continue;
    if (engine_ended) database->let_go();
    database->stop_waiting();
  }
}

void Database::let_go() noexcept {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (lock.try_lock_for(kSoon) && outbox_ && outbox_->has_role()) outbox_->release_role();
}

void flush_databases(bool hurry) noexcept {
  guarded("flushing", [hurry] { Database::flush_all(hurry); });
}

void flush_at_exit() noexcept {
  flush_databases();
  const bool ended = Engine::stop();
  guarded("ending", [ended] { Database::end_all(ended); });
}

}  // namespace sqlstream
