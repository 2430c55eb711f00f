#include "replicate/follower.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace sqlstream {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr auto kQuiet = milliseconds(10);  // without a commit: the writer pauses
constexpr int kMostLooks = 60;             // at what does not come to an end: about a minute
constexpr auto kLongestPause = milliseconds(5000);
constexpr auto kPatience = milliseconds(2000);  // with who is busy with a database, unsaid

milliseconds doubling(milliseconds first, int times, milliseconds longest) {
  return std::min(first * (1 << std::min(times, 10)), longest);
}

// What has to appear for `path` to come nearer to existence.
Watcher::Place nearest_folder(const fs::path& path) {
  fs::path folder = path.parent_path();
  fs::path name = path.filename();
  std::error_code ignored;
  while (folder.has_relative_path() && !fs::is_directory(folder, ignored)) {
    name = folder.filename();
    folder = folder.parent_path();
  }
  return {folder.string(), true, {name.string(), name.string() + "-wal"}};
}

}  // namespace

Follower::Follower(Settings settings, Watcher& watcher)
    : settings_(std::move(settings)), watcher_(watcher), signal_(Engine::get().executor()) {}

asio::awaitable<void> Follower::run() {
  subscription_ = watcher_.subscribe([this](Watcher::Change change) { told(change); });
  while (!stopping_) {
    if (keeper_) {
      co_await follow();
    } else {
      co_await wait_for_database();
    }
  }
  // What was busy until now.
  if (!keeper_) co_await open();
  subscription_.reset();
  co_await on_worker([this] { keeper_.reset(); });
}

void Follower::stop() {
  stopping_ = true;
  signal_.notify();
}

void Follower::told(Watcher::Change change) {
  if (change == Watcher::Change::names) renamed_ = true;
  waits_ = 0;
  signal_.notify();
}

void Follower::watch() {
  try {
    subscription_->watch(
        {nearest_folder(settings_.path), {settings_.path}, {settings_.path + "-wal"}});
  } catch (const Error& e) {
    report(watch_error_, e.what());
  }
}

// Once, until it is another one.
void Follower::report(std::string& said, const std::string& error) {
  if (said != error) log::error(error, {{"db", settings_.path}});
  said = error;
}

void Follower::become_ready() {
  if (!is_ready_) ready_.set_value();
  is_ready_ = true;
}

asio::awaitable<void> Follower::open() {
  // Before the look: what comes in between is told.
  renamed_ = false;
  watch();
  bool busy = false;
  std::string error;
  try {
    co_await on_worker([this] {
      keeper_ = Keeper::open(settings_.path, settings_.limits);
      if (keeper_) keeper_->step();
    });
  } catch (const Busy& e) {
    busy = true;
    error = e.what();
  } catch (const Error& e) {
    error = e.what();
  }
  if (!busy) {
    busy_since_.reset();
  } else if (!busy_since_) {
    busy_since_ = steady_clock::now();
  }
  const bool patient = busy && !stopping_ && steady_clock::now() < *busy_since_ + kPatience;
  if (!error.empty() && !patient) report(error_, error);
  if (!keeper_) co_return;
  error_.clear();
  watch_error_.clear();
  said_missing_ = false;
  watch();  // now there is a WAL
  log::info("following", {{"db", settings_.path}});
}

asio::awaitable<void> Follower::wait_for_database() {
  co_await open();
  become_ready();
  if (keeper_) co_return;
  const auto file = capture::identify(settings_.path);
  if (!file || file->size == 0) {
    if (!std::exchange(said_missing_, true)) {
      log::info("there is no database yet; waiting for it", {{"db", settings_.path}});
    }
    co_await signal_.wait();
  } else {
    // Another program is busy with it, or it is none: whether that is over, nobody tells.
    const auto pause = doubling(milliseconds(50), waits_++, kLongestPause);
    co_await signal_.wait_until(steady_clock::now() + pause);
  }
}

asio::awaitable<void> Follower::follow() {
  if (renamed_) {
    renamed_ = false;
    watch();
    if (!keeper_->is_current()) {
      log::warn("another file has taken the database's place", {{"db", settings_.path}});
      co_await on_worker([this] { keeper_.reset(); });
      seen_.reset();
      co_return;
    }
  }
  const auto state = keeper_->look();
  const bool news = !state || keeper_->has_news(*state);
  if (state && news && is_due(*state)) {
    const bool done = co_await on_worker([this] { return keeper_->step(); });
    stepped_at_ = steady_clock::now();
    failures_ = done ? 0 : failures_ + 1;
    if (!done) not_before_ = stepped_at_ + doubling(kQuiet, failures_, milliseconds(1000));
  } else if (news) {
    co_await signal_.wait_until(steady_clock::now() + kQuiet);
  } else if (state->under_way && waits_ < kMostLooks) {
    co_await signal_.wait_until(steady_clock::now() +
                                doubling(kQuiet, waits_++, milliseconds(1000)));
  } else {
    co_await signal_.wait();
  }
}

// At once after a quiet time; under load once in an interval, unless there is a lot; and at once
// when the writer pauses: a checkpoint may be waiting for our read transaction to move.
bool Follower::is_due(const WalState& state) {
  const auto now = steady_clock::now();
  if (!seen_ || !state.same_commit(*seen_)) seen_at_ = now;
  seen_ = state;
  if (now < not_before_) return false;
  return now >= stepped_at_ + settings_.interval || now >= seen_at_ + kQuiet ||
         keeper_->behind(state) >= settings_.limits.soft;
}

}  // namespace sqlstream
