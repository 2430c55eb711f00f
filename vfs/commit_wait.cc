#include "vfs/commit_wait.h"

#include <algorithm>
#include <utility>

namespace sqlstream {

using std::chrono::milliseconds;

void ConnectionWaits::choose(milliseconds limit) {
  chosen_ = limit;
  refresh();
}

void ConnectionWaits::refresh() {
  bool any = false;
  for (CommitWait* file : files_) {
    const milliseconds limit = chosen_.value_or(file->own_limit_);
    file->replication_.set_sync_limit(limit);
    any |= limit.count() > 0;
  }
  for (CommitWait* file : files_) file->active_ = any;
}

void ConnectionWaits::wait_if_free() noexcept {
  if (pending_ == 0 || locks_ > 0) return;
  const auto begun = std::chrono::steady_clock::now();
  for (CommitWait* file : files_) {
    if (!std::exchange(file->pending_, false)) continue;
    --pending_;
    const auto waited = std::chrono::floor<milliseconds>(std::chrono::steady_clock::now() - begun);
    const milliseconds limit = file->replication_.sync_limit();
    file->replication_.wait_durable(std::exchange(file->ticket_, 0),
                                    std::max(limit - waited, milliseconds(0)));
  }
}

std::shared_ptr<ConnectionWaits> ConnectionsWaits::of(sqlite3* db) {
  const std::lock_guard lock(mutex_);
  std::erase_if(all_, [](const auto& entry) { return entry.second.expired(); });
  auto& known = all_[db];
  auto group = known.lock();
  if (!group) known = group = std::make_shared<ConnectionWaits>();
  return group;
}

CommitWait::CommitWait(const sqlite3_api_routines& api, Connection& replication,
                       milliseconds own_limit, bool shared)
    : api_(api), replication_(replication), own_limit_(own_limit), shared_(shared) {
  join(std::make_shared<ConnectionWaits>());
}

CommitWait::~CommitWait() {
  leave();
}

void CommitWait::join(std::shared_ptr<ConnectionWaits> group) {
  group->files_.push_back(this);
  group_ = std::move(group);
  group_->refresh();
}

void CommitWait::leave() {
  unlock();
  if (std::exchange(pending_, false)) --group_->pending_;
  std::erase(group_->files_, this);
  group_->refresh();
}

void CommitWait::belongs_to(sqlite3** db, ConnectionsWaits& all) {
  // A cache that is shared by sqlite3_enable_shared_cache() says so when the next one joins it, and
  // not while that has the file.
  if (db_ != nullptr) joined_.store(true);
  if (shared_ || db == nullptr || *db == nullptr || db_ != nullptr) return;
  auto group = all.of(*db);
  group->files_.reserve(group->files_.size() + 1);
  leave();
  db_ = db;
  join(std::move(group));
}

// The connections of a shared cache take turns in using the file: each commit is for itself.
void CommitWait::become_shared() noexcept {
  try {
    auto own = std::make_shared<ConnectionWaits>();
    own->files_.reserve(1);
    own->chosen_ = group_->chosen_;
    leave();
    shared_ = true;
    db_ = nullptr;
    join(std::move(own));
  } catch (const std::bad_alloc&) {  // the next time, then
  }
}

void CommitWait::write_lock_obtained() noexcept {
  if (joined_.load(std::memory_order_relaxed) && !shared_) become_shared();
  if (!std::exchange(locked_, true)) ++group_->locks_;
}

void CommitWait::unlock() noexcept {
  if (std::exchange(locked_, false) && --group_->locks_ == 0) group_->committing_ = false;
}

bool CommitWait::must_refuse() noexcept {
  return replication_.sync_limit().count() > 0 && replication_.refuses_wal_writes();
}

bool CommitWait::refuses(bool commits) noexcept {
  if (group_->committing_) return false;
  if (must_refuse()) return true;
  if (!commits || !locked_) return false;
  for (CommitWait* file : group_->files_) {
    if (file->locked_ && file->must_refuse()) return true;
  }
  group_->committing_ = true;
  return false;
}

void CommitWait::write_lock_releasing() noexcept {
  unlock();
  if (replication_.sync_limit().count() > 0) {
    ticket_ = replication_.take_ticket();
  }
}

void CommitWait::committed(bool exclusive) noexcept {
  if (replication_.sync_limit().count() == 0) return;
  outside_wal_ = replication_.outside_wal() && !replication_.keeps_locks();
  if (outside_wal_) return;
  if (exclusive) ticket_ = replication_.take_ticket();
  if (ticket_ != 0) pend();
  if (exclusive || !release_follows()) group_->wait_if_free();
}

void CommitWait::unlocked() noexcept {
  if (!std::exchange(outside_wal_, false)) return;
  ticket_ = replication_.take_ticket();
  if (ticket_ == 0) return;
  pend();
  group_->wait_if_free();
}

void CommitWait::pend() {
  if (!std::exchange(pending_, true)) ++group_->pending_;
}

// The statement that commits is one that is busy.
bool CommitWait::release_follows() const {
  if (db() == nullptr) return false;
  int busy = 0;
  for (sqlite3_stmt* statement = api_.next_stmt(db(), nullptr); statement != nullptr;
       statement = api_.next_stmt(db(), statement)) {
    if (api_.stmt_busy(statement) != 0 && ++busy > 1) return false;
  }
  return true;
}

}  // namespace sqlstream
