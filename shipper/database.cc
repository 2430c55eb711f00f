#include "shipper/database.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/resource.h>
#include <system_error>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "shipper/database_parts.h"
#include "shipper/replicator.h"
#include "shipper/source_file.h"

namespace sqlstream {
namespace {

// A bounded outbox is of many files: whole files are folded and deleted. In a process whose files
// are limited (RLIMIT_FSIZE), there must be room for a record as large as a WAL.
std::uint64_t rotate_size(std::uint64_t outbox_max_size) {
  constexpr std::uint64_t kLargest = capture::Outbox::kRotateSize;
  std::uint64_t size = kLargest;
  if (outbox_max_size != 0) size = std::clamp(outbox_max_size / 16, kLargest / 16, kLargest);
  rlimit file{};
  if (::getrlimit(RLIMIT_FSIZE, &file) == 0)
    size = std::min<std::uint64_t>(size, file.rlim_cur / 4);
  return size;
}

}  // namespace

// Found without a lock, which a thread that does not exist in a forked child might hold.
std::atomic<Database::Registry*> Database::the_registry_{nullptr};

// Without a mutex: a fork could leave it locked in the child.
Database::Registry& Database::Registry::get() {
  Registry* known = the_registry_.load(std::memory_order_acquire);
  if (known != nullptr && known->epoch == fork_epoch()) return *known;
  auto* made = new Registry();
  if (the_registry_.compare_exchange_strong(known, made)) return *made;
  delete made;
  return *known;
}

std::shared_ptr<Database> Database::attach(const Host& host, const DatabaseSettings& settings) {
  Registry& all = Registry::get();
  const std::lock_guard lock(all.mutex);
  auto known = std::find_if(all.databases.begin(), all.databases.end(), [&](const auto& database) {
    return &database->host_ == &host && database->path() == settings.path;
  });
  if (known != all.databases.end() && (*known)->is_outdated(settings)) {
    if ((*known)->started_.load()) {
      all.retired.push_back(*known);
      (*known)->retire();
    }
    all.databases.erase(known);
    known = all.databases.end();
  }
  auto database =
      known != all.databases.end() ? *known : std::make_shared<Database>(host, settings);
  {
    // Room for what it will map: that cannot fail then.
    const std::lock_guard pinning(database->mapping_mutex_);
    database->mappings_.reserve(database->connections_.load() + 1);
  }
  if (known == all.databases.end()) all.databases.push_back(database);
  database->connections_.fetch_add(1);
  database->opened_.fetch_add(1);
  return database;
}

std::string Database::conflict(const Host& host, const DatabaseSettings& settings) {
  Registry& all = Registry::get();
  const std::lock_guard lock(all.mutex);
  for (const auto& database : all.databases) {
    const DatabaseSettings& theirs = database->settings_;
    if (&database->host_ != &host || theirs.path != settings.path) continue;
    if (database->connections_.load() == 0) continue;
    const auto same = [](const ReplicaSettings& one, const ReplicaSettings& other) {
      return one.store.place() == other.store.place();
    };
    if (!std::ranges::equal(settings.replicas, theirs.replicas, same)) {
      std::string urls;
      for (const auto& replica : theirs.replicas) {
        urls += (urls.empty() ? "" : ", ") + replica.store.url();
      }
      return "this program has it open already, and replicates it to " + urls +
             "; give all of its connections the same replicas";
    }
    if (settings.outbox_dir != theirs.outbox_dir) {
      return "this program has it open already, with its outbox in " +
             database->outbox_directory() + "; give all of its connections the same outbox-dir";
    }
  }
  return {};
}

// For whoever opens it with these. Nobody has it open, but what ships lingers. How it is shipped
// matters for no more than that; what is broken off for it, as a snapshot, begins from nothing.
// Precondition: the registry's mutex is held.
bool Database::is_outdated(const DatabaseSettings& settings) const {
  if (connections_.load() > 0) return false;
  const auto same = [](const ReplicaSettings& one, const ReplicaSettings& other) {
    return one.store == other.store;
  };
  return settings.outbox_dir != settings_.outbox_dir ||
         !std::ranges::equal(settings.replicas, settings_.replicas, same) || !is_outbox_there();
}

// True also as long as there is none yet.
bool Database::is_outbox_there() const {
  const std::uint64_t lock = outbox_lock_.load();
  return lock == 0 || capture::is_outbox(outbox_directory(), lock);
}

// Leaves all to another object, which is to this one as another process. For good.
void Database::retire() noexcept {
  closed_.store(true);
  leaving_.store(true);
  tell(kRole | kShip);
}

std::vector<std::shared_ptr<Database>> Database::all() {
  Registry& all = Registry::get();
  const std::lock_guard lock(all.mutex);
  return all.databases;
}

std::vector<std::shared_ptr<Database>> Database::retired() {
  Registry& all = Registry::get();
  const std::lock_guard lock(all.mutex);
  return all.retired;
}

// When it has left the role.
void Database::forget_retired() {
  Registry& all = Registry::get();
  const std::lock_guard lock(all.mutex);
  std::erase_if(all.retired, [this](const auto& database) { return database.get() == this; });
}

std::shared_ptr<Database> Database::find(const std::string& path) {
  for (auto& database : all()) {
    if (database->path() == path) return database;
  }
  return nullptr;
}

Database::Database(const Host& host, DatabaseSettings settings)
    : host_(host),
      settings_(std::move(settings)),
      epoch_(fork_epoch()),
      durability_(settings_.replicas.size()),
      replica_status_(settings_.replicas.size()),
      kept_from_(settings_.replicas.size(), UINT64_MAX),
      fold_signal_(Engine::get().executor()),
      capture_signal_(Engine::get().executor()),
      role_signal_(Engine::get().executor()) {}

Database::~Database() = default;

bool Database::ours() const {
  return epoch_ == fork_epoch();
}

void Database::opened(bool waits) {
  // What an earlier process left is shipped even if nothing is written now.
  const std::string directory = outbox_directory();
  if (::access(directory.c_str(), F_OK) != 0) return;
  start();
  if (waits && !learned_.load()) learned_.store(learn_behind());
}

void Database::closed() {
  const std::uint64_t opened = opened_.load();
  connections_.fetch_sub(1);
  if (started_.load()) {
    tell(kRole | kShip);  // what only a connection could have shipped is given up
  } else {
    close_if_unused(opened);
  }
}

// On any thread. Only the first of several news that were not heard yet needs a handler: there is
// always room for it.
void Database::tell(unsigned news) noexcept {
  if (news_.fetch_or(news) != 0) return;
  Engine::get().post(news_room_, [self = shared_from_this()] { self->told(); });
}

void Database::told() {
  const unsigned news = news_.exchange(0);
  if ((news & kStart) != 0) {
    const auto ended = [](const std::exception_ptr&) {};
    const auto self = shared_from_this();
    const auto executor = Engine::get().executor();
    asio::co_spawn(executor, despite_memory([self] { return capture_loop(self); }), ended);
    asio::co_spawn(executor, despite_memory([self] { return role_loop(self); }), ended);
  }
  if ((news & kCapture) != 0) capture_signal_.notify();
  if ((news & kRole) != 0) {
    role_signal_.notify();
    if (stop_watching_) stop_watching_();
  }
  if ((news & kLog) != 0) fold_signal_.notify();
  for (const auto& replicator : replicators_) {
    if ((news & kEnd) != 0) replicator->stop_validating();
    if ((news & (kShip | kEnd)) != 0) replicator->notify();
  }
}

// Nor has anybody opened it since there were so many that did.
bool Database::close_if_unused(std::uint64_t opened) {
  Registry& all = Registry::get();
  const std::lock_guard lock(all.mutex);
  if (connections_.load() > 0 || opened_.load() != opened) return false;
  std::erase_if(all.databases, [this](const auto& database) { return database.get() == this; });
  return true;
}

bool Database::start() noexcept {
  if (!started_.exchange(true)) tell(kStart);
  return Engine::get().start();
}

std::string Database::outbox_directory() const {
  return capture::OutboxPlace::directory_of(path(), settings_.outbox_dir);
}

// Precondition: capture_mutex_ is held. Empty: there is none any more.
void Database::note_outbox_error(const std::string& error) {
  if (outbox_error_ == error) return;
  outbox_error_ = error;
  if (error.empty()) return;
  log::error(error, {{"db", path()}});
  const std::lock_guard lock(status_mutex_);
  capture_error_ = error;
}

// Precondition: capture_mutex_ is held.
bool Database::open_outbox() {
  if (capturer_) return true;
  try {
    outbox_.emplace(capture::OutboxPlace::of(path(), settings_.outbox_dir),
                    rotate_size(settings_.outbox_max_size));
    const auto shape = [this]() -> std::optional<capture::DatabaseShape> {
      return read_shape(SourceFile(host_, path()));
    };
    capturer_.emplace(*outbox_, path(), shape, settings_.outbox_max_size);
    outbox_lock_.store(outbox_->lock_inode());
    note_outbox_error({});
    return true;
  } catch (const std::exception& e) {
    outbox_.reset();
    note_outbox_error(text_of(e));
    return false;
  }
}

// Precondition: capture_mutex_ is held.
void Database::open_wal() {
  const std::string name = path() + "-wal";
  struct stat st {};
  if (wal_fd_ && ::stat(name.c_str(), &st) == 0 && st.st_ino == wal_inode_) return;
  wal_fd_ = UniqueFd(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  wal_inode_ = wal_fd_ && ::fstat(wal_fd_.get(), &st) == 0 ? st.st_ino : 0;
}

// Precondition: mapping_mutex_ is held. The largest of those of the file that has the name now; of
// another file only where there is none. Null: there is none at all.
Mapping* Database::current_mapping() const {
  if (mappings_.empty()) return nullptr;
  const auto file = capture::identify(path());
  const auto rank = [&](const Mapping* mapping) {
    return std::pair(file && file->same_file(mapping->file), mapping->regions.size());
  };
  return *std::max_element(mappings_.begin(), mappings_.end(),
                           [&](const Mapping* a, const Mapping* b) { return rank(a) < rank(b); });
}

bool Database::is_moved(const capture::FileIdentity& opened) const {
  const auto file = capture::identify(path());
  // What cannot be told is told by the capture.
  if (!file) return errno == ENOENT || errno == ENOTDIR;
  return !file->same_file(opened);
}

// Precondition: capture_mutex_ is held.
void Database::tell_moved(const capture::FileIdentity& opened) {
  if (std::exchange(told_moved_, opened.inode) == opened.inode) return;
  log::error(std::string("replication pauses: ") + kMoved, {{"db", path()}});
}

// What is open here may have been, since the last capture.
void Database::notice_moved() noexcept {
  const std::lock_guard pinned(mapping_mutex_);
  const Mapping* current = current_mapping();
  if (current != nullptr && is_moved(current->file)) set_moved(true);
}

void Database::set_moved(bool moved) noexcept {
  if (moved_.exchange(moved) != moved && started_.load()) tell(kRole);
}

// Precondition: capture_mutex_ is held. The tail, for those who must not wait for a capture.
// `tickets`: those that a capture has seen through. True when another generation follows one that
// was known.
bool Database::publish(std::uint64_t tickets) noexcept {
  const std::uint64_t log = outbox_->current_log();
  if (known_log_.exchange(log) != log && started_.load()) tell(kLog);
  alive_.store(outbox_->generation_alive());
  in_place_.store(outbox_->control().snapshot, std::memory_order_relaxed);
  bound_saved_pages();
  frames_.store(capturer_->frames());
  if (tickets > 0 && alive_.load()) durability_.captured(tickets, outbox_->tail()->last.sequence);
  const std::lock_guard lock(status_mutex_);
  const bool new_generation =
      outbox_->tail() && (!tail_ || tail_->generation != outbox_->tail()->generation);
  const bool follows = new_generation && tail_;
  if (new_generation) waited_out_.store(kNotWaited);
  tail_ = outbox_->tail();
  try {
    capture_error_ = capturer_->error();
  } catch (const std::bad_alloc&) {
    capture_error_.clear();
  }
  status_changed_.notify_all();
  return follows;
}

// Precondition: capture_mutex_ is held. The outbox's bound counts what is saved for a snapshot; a
// snapshot can be made later, so it is what gives way.
void Database::bound_saved_pages() noexcept {
  const std::uint64_t id = outbox_->control().snapshot;
  if (id == 0 || !outbox_->tail()) return;
  try {
    const auto limit = capture::outbox_limit(settings_.outbox_max_size, outbox_->tail()->last);
    const std::uint64_t room = limit - std::min(limit, outbox_->size());
    room_for_pages_.store(room, std::memory_order_relaxed);
    auto pages = capture::OldPages::open(outbox_->directory(), id);
    if (!pages || pages->bytes() <= room) return;
    pages->outgrow(outbox_->directory());
    log::info("a snapshot in the making is void: the outbox reached outbox-max-size",
              {{"db", path()}});
  } catch (const std::exception&) {  // at the next capture
  }
}

void Database::mapped(Mapping& mapping) {
  const bool first = std::none_of(mappings_.begin(), mappings_.end(), [&](const Mapping* other) {
    return other->file.same_file(mapping.file);
  });
  if (first) {
    session_new_.store(true);
    seen_change.store(kNoChange);
  }
  mappings_.push_back(&mapping);
  blind_.store(false);
}

void Database::unmapped(Mapping& mapping) {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  const bool locked = lock.try_lock_for(kLongestWait);
  std::unique_lock pinned(mapping_mutex_);
  readers_gone_.wait(pinned, [&] { return mapping.readers == 0; });
  std::erase(mappings_, &mapping);
  if (mappings_.empty() && locked) wal_fd_.reset();
}

bool Database::has_mapping() {
  const std::lock_guard pinned(mapping_mutex_);
  return !mappings_.empty() && !moved_.load();
}

void Database::cannot_see() {
  blind_.store(true);
  role_signal_.notify();
}

// While the store is away: from half of the bound on, folds what nobody has begun to ship, and
// again when a quarter of the bound came in addition, so that the work stays in proportion.
asio::awaitable<void> Database::bound_outbox(Self self) {
  std::uint64_t fold_at = 0;
  while (!self->role_over_) {
    co_await self->fold_signal_.wait();
    const auto tail = self->tail();
    if (self->role_over_ || !tail) continue;
    const std::uint64_t limit = capture::outbox_limit(self->settings_.outbox_max_size, tail->last);
    const auto size = co_await on_worker([&] { return self->outbox_size(); });
    if (!size || *size < std::max(limit / 2, fold_at)) {
      if (size && *size < limit / 2) fold_at = 0;
      continue;
    }
    for (const auto& replicator : self->replicators_) replicator->make_room();
    self->folding_ = true;
    while (std::any_of(self->replicators_.begin(), self->replicators_.end(),
                       [](const auto& replicator) { return replicator->reading(); })) {
      co_await self->fold_signal_.wait_until(steady_clock::now() + kSoon);
    }
    std::vector<OutboxUse> uses;
    for (const auto& replicator : self->replicators_) {
      for (const OutboxUse& use : replicator->uses()) uses.push_back(use);
    }
    std::uint64_t freed = 0;  // the outbox may grow meanwhile
    std::string error;
    try {
      freed = co_await on_worker([&] { return self->fold_outbox(uses); });
    } catch (const std::exception& e) {
      error = text_of(e);
    }
    const std::uint64_t left = *size - std::min(*size, freed);
    fold_at = left + limit / 8;
    ++self->folds_;
    self->folding_ = false;
    for (const auto& replicator : self->replicators_) replicator->folded();
    if (!error.empty()) log::warn("cannot fold the outbox: " + error, {{"db", self->path()}});
    if (left < *size) {
      log::info("outbox folded", {{"db", self->path()},
                                  {"before", std::to_string(*size)},
                                  {"after", std::to_string(left)}});
    }
  }
}

// Empty: it cannot be told now.
std::optional<std::uint64_t> Database::outbox_size() {
  const std::lock_guard lock(capture_mutex_);
  try {
    return outbox_ ? outbox_->size() : 0;
  } catch (const std::system_error&) {
    return std::nullopt;
  }
}

// Returns the bytes that it freed.
std::uint64_t Database::fold_outbox(const std::vector<OutboxUse>& uses) {
  if (!is_outbox_there()) return 0;
  const auto place = capture::OutboxPlace::of(path(), settings_.outbox_dir);
  const auto files = log_files();
  std::uint64_t freed = 0;
  for (const auto& run : plan_folds(files, uses)) freed += fold(place, run);
  return freed;
}

std::optional<capture::Tail> Database::tail() const {
  const std::lock_guard lock(status_mutex_);
  return tail_;
}

std::vector<std::uint64_t> Database::log_files() {
  const std::lock_guard lock(capture_mutex_);
  return outbox_ ? outbox_->log_files() : std::vector<std::uint64_t>{};
}

void Database::set_status(std::size_t replica, ReplicaStatus status) {
  {
    // Nothing is allocated under the lock: this thread may wait for memory.
    const std::lock_guard lock(status_mutex_);
    std::swap(replica_status_[replica], status);
    status_changed_.notify_all();
  }
  if (Engine::running() != nullptr) tell(kRole);
}

void Database::settle(std::size_t replica, std::uint64_t sequence) {
  const std::lock_guard lock(status_mutex_);
  auto& settled = replica_status_[replica].settled;
  settled = std::max(settled, sequence);
}

void Database::keep_from(std::size_t replica, std::uint64_t first) {
  const std::lock_guard lock(status_mutex_);
  kept_from_[replica] = first;
}

void Database::trim() {
  std::uint64_t everywhere = UINT64_MAX;
  std::uint64_t kept = UINT64_MAX;
  {
    const std::lock_guard lock(status_mutex_);
    for (const auto& status : replica_status_) everywhere = std::min(everywhere, status.settled);
    for (const std::uint64_t first : kept_from_) kept = std::min(kept, first - 1);
  }
  const std::lock_guard lock(capture_mutex_);
  if (!outbox_ || !outbox_->tail() || !is_outbox_there()) return;
  tidy_up_snapshot();
  // What a later snapshot would need is not worth the end of a generation.
  const auto limit = capture::outbox_limit(settings_.outbox_max_size, outbox_->tail()->last);
  const bool roomy = outbox_->size() < limit / 2;
  outbox_->trim(std::min({everywhere, kept, roomy ? outbox_->tail()->wal_first - 1 : UINT64_MAX}));
  if (outbox_->control().full == 0 || everywhere < outbox_->tail()->last.sequence) {
    return;
  }
  // All that was held back is in the replicas: replication may begin again.
  const auto lock2 = outbox_->lock(kLongestWait);
  if (!lock2) return;
  outbox_->refresh();
  auto control = outbox_->control();
  control.full = 0;
  outbox_->set_control(control);
  wake();
}

}  // namespace sqlstream
