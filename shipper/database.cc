#include "shipper/database.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/fork.h"
#include "base/json.h"
#include "base/log.h"
#include "base/scheduling.h"
#include "shipper/replicator.h"
#include "shipper/source_file.h"
#include "shipper/sqlite_version.h"
#include "shipper/validation.h"

namespace sqlstream {
namespace {

using std::chrono::steady_clock;

constexpr auto kLongestWait = std::chrono::seconds(2);  // for a capture that must not be missed
constexpr auto kLinger = std::chrono::seconds(2);  // without connections, before the role is left
constexpr int kMostUnused = 32;                    // databases that linger
constexpr auto kRetry = std::chrono::seconds(1);   // after a capture that could not be made
constexpr auto kRefusedPatience = std::chrono::milliseconds(1500);
constexpr auto kSoon = std::chrono::milliseconds(5);
constexpr auto kNoteDue = std::chrono::seconds(5);  // who ships has a note of each replica by then
constexpr auto kNoteInterval = std::chrono::milliseconds(2);    // another process's progress
constexpr auto kOthersLimit = std::chrono::milliseconds(5000);  // the default of sync: on
constexpr int kLooks = 5;  // behind a checkpoint whose end nothing tells of
constexpr auto kBlindPause = std::chrono::milliseconds(150);
constexpr auto kLongestTurn = std::chrono::minutes(10);
constexpr auto kTurn = std::chrono::seconds(10);   // of who ships, and has no longer the file open
constexpr auto kUntold = std::chrono::seconds(5);  // between looks for what nobody told of
constexpr int kOutageTurns = 6;
constexpr auto kTakeOverPause = std::chrono::milliseconds(20);

struct Registry {
  std::uint64_t epoch = fork_epoch();
  std::mutex mutex;
  std::vector<std::shared_ptr<Database>> databases;
  bool looks = false;  // look_for_untold() runs; the engine's thread
};

// Never destroyed, and left to the parent in a forked child. Found without a lock, which a thread
// that does not exist in the child might hold.
std::atomic<Registry*> the_registry{nullptr};

// Without a mutex: a fork could leave it locked in the child.
Registry& registry() {
  Registry* known = the_registry.load(std::memory_order_acquire);
  if (known != nullptr && known->epoch == fork_epoch()) return *known;
  auto* made = new Registry();
  if (the_registry.compare_exchange_strong(known, made)) return *made;
  delete made;
  return *known;
}

std::chrono::nanoseconds shortest_interval(const DatabaseSettings& settings) {
  auto shortest = std::chrono::nanoseconds(std::chrono::hours(24));
  for (const auto& replica : settings.replicas)
    shortest = std::min(shortest, replica.sync_interval);
  return shortest;
}

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

// False when it was that high already.
bool raise_to(std::atomic<std::uint64_t>& value, std::uint64_t least) {
  std::uint64_t known = value.load();
  while (known < least) {
    if (value.compare_exchange_weak(known, least)) return true;
  }
  return false;
}

std::int64_t now_ns() {
  return now().time_since_epoch().count();
}

Time to_time(std::int64_t ns) {
  return Time(std::chrono::nanoseconds(ns));
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

/// While one lives, what there is is captured and shipped without pacing.
class Database::Flushing {
 public:
  Flushing(Database& database, unsigned news) : database_(database), ends_((news & kEnd) != 0) {
    database_.flushing_.fetch_add(1);
    if (ends_) database_.ending_.fetch_add(1);
    database_.tell(kCapture | news);
  }
  Flushing(const Flushing&) = delete;
  Flushing& operator=(const Flushing&) = delete;
  ~Flushing() {
    if (ends_) database_.ending_.fetch_sub(1);
    database_.flushing_.fetch_sub(1);
  }

 private:
  Database& database_;
  const bool ends_;
};

std::shared_ptr<Database> Database::attach(const Host& host, const DatabaseSettings& settings) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto known =
      std::find_if(all.databases.begin(), all.databases.end(), [&](const auto& database) {
        return &database->host_ == &host && database->path() == settings.path;
      });
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

std::vector<std::shared_ptr<Database>> Database::all() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  return all.databases;
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
      durability_(settings_.replicas.size(), settings_.sync_any),
      replica_status_(settings_.replicas.size()),
      kept_from_(settings_.replicas.size(), UINT64_MAX),
      fold_signal_(Engine::get().executor()),
      capture_signal_(Engine::get().executor()),
      role_signal_(Engine::get().executor()) {}

Database::~Database() = default;

bool Database::ours() const {
  return epoch_ == fork_epoch();
}

void Database::opened() {
  // What an earlier process left is shipped even if nothing is written now.
  const std::string directory = outbox_directory();
  if (::access(directory.c_str(), F_OK) != 0) return;
  start();
  const bool waits = settings_.sync_fail || settings_.sync.count() > 0;
  if (waits && !learned_.load()) learned_.store(learn_behind());
}

// What other processes, or connections that are closed, waited for in vain is not waited for again,
// or forbids this one's writes as well. Only where it has not waited itself: its own commits tell
// it later. False: it could not be found out.
bool Database::learn_behind() noexcept try {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (durability_.behind()) return true;
  if (!lock.try_lock_for(kLongestWait) || !look()) return false;
  const std::int64_t since = outbox_->behind();
  const auto known = tail();
  if (since == 0 || !known) return true;
  durability_.fall_behind({to_time(since), 0, kOthersLimit, known->last.sequence});
  lock.unlock();
  is_behind();
  return true;
} catch (const std::exception&) {
  return false;
}

void Database::closed() {
  connections_.fetch_sub(1);
  if (started_.load()) {
    tell(kRole | kShip);  // what only a connection could have shipped is given up
  } else {
    close_if_unused();
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

bool Database::close_if_unused() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  if (connections_.load() > 0) return false;
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

std::optional<Database::InPlace> Database::begin_in_place() {
  const std::lock_guard lock(capture_mutex_);
  if (making_in_place_.load() || !open_outbox()) return std::nullopt;
  const auto outbox_lock = outbox_->lock(kSoon * 10);
  if (!outbox_lock) return std::nullopt;
  outbox_->refresh();
  if (!outbox_->generation_alive()) return std::nullopt;
  auto pages = outbox_->begin_snapshot();
  if (!pages) return std::nullopt;
  making_in_place_.store(true);
  publish();
  return InPlace{std::move(*pages), *outbox_->tail()};
}

// Each look comes after what it is to prove: the pages were read, then this.
Database::Proof Database::prove_in_place(const capture::OldPages& pages, const capture::Tail& at) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const Sight seen = see();
  const auto known = tail();
  if (!generation_alive() || !known || known->generation != at.generation ||
      snapshot_in_place() != pages.shape().id) {
    return Proof::not_exact;
  }
  const auto look = look_at_wal_index();
  const capture::Announcement announced = pages.announced();
  if (pages.is_void()) return Proof::not_exact;
  if (seen == Sight::none || announced.open) return Proof::not_yet;
  const capture::Record& last = known->last;
  if (!look) {
    const bool closed = last.identity.inode != 0 && capture::identify(path()) == last.identity;
    return closed && announced.covers(last.source) ? Proof::exact : Proof::unseen;
  }
  if (seen != Sight::wal_index) return Proof::not_yet;  // that came after the capture
  const auto& [header, progress] = *look;
  // A WAL that began anew and has no commit yet is no record's.
  const bool same_wal = header.salt == last.source.salt;
  if (!same_wal && header.frames != 0) return Proof::not_yet;
  if (!same_wal && !announced.covers(last.source)) return Proof::unannounced;
  const std::uint32_t attempted = std::max(progress.done, progress.begun);
  return attempted <= announced.reached(header.salt) ? Proof::exact : Proof::unannounced;
}

std::optional<Database::Look> Database::look_at_wal_index() {
  const std::lock_guard pinned(mapping_mutex_);
  const Mapping* current = current_mapping();
  if (current == nullptr || current->regions.empty() || is_moved(current->file))
    return std::nullopt;
  const volatile void* region0 = current->regions[0];
  Look look;
  look.progress = {UINT32_MAX, UINT32_MAX};
  const auto before = capture::read_wal_index_header(region0);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const auto progress = capture::read_checkpoint_progress(region0);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const auto after = capture::read_wal_index_header(region0);
  // Else what is read is of no one WAL: look again.
  if (before && after && before->salt == after->salt) look = {*after, progress};
  return look;
}

void Database::end_in_place() noexcept {
  try {
    capture::OldPages::remove(outbox_directory());
  } catch (const std::bad_alloc&) {  // trim() does it
  }
  making_in_place_.store(false);
}

// Precondition: capture_mutex_ is held, and this process has the role.
void Database::tidy_up_snapshot() {
  if (outbox_->control().snapshot == 0 || making_in_place_.load()) return;
  const auto lock = outbox_->lock(kSoon * 10);
  if (!lock) return;
  outbox_->refresh();
  outbox_->end_snapshot();
  publish();
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
      self->closed_ = self->close_if_unused();
    }
  }
  self->set_role(Role::left);
  self->capture_signal_.notify();
}

// Holds the role for as long as that is right, or waits until it may be had. Throws when the outbox
// cannot be used.
asio::awaitable<void> Database::take_turn() {
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
  const auto shipped = co_await hold_role();
  if (shipped && !co_await on_worker([&] { return has_more_than(*shipped); })) {
    closed_ = close_if_unused();
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
  Registry& all = registry();
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
  if (!std::exchange(registry().looks, true)) {
    asio::co_spawn(executor, despite_memory([] { return look_for_untold(); }),
                   [](const std::exception_ptr&) {});
  }
  // Who had it may have been killed before it captured what it committed last.
  capture_signal_.notify();

  while (!role_over_ && !leaving_.load() && !deafened) {
    if (others_commit() && cannot_ship()) {
      role_over_ = gives_way_ = true;
      continue;
    }
    if (!others_first()) turn_ends.reset();
    if (opened != opened_.load() || connections_.load() > 0) unused_until.reset();
    opened = opened_.load();
    if (others_first()) {
      if (!turn_ends) turn_ends = steady_clock::now() + turn_;
      const auto wanted = [&] { return moved_.load() ? role_wanted_ : others_commit(); };
      if (!wanted()) co_await role_signal_.wait_until(*turn_ends);
      role_over_ = others_first() && (wanted() || steady_clock::now() >= *turn_ends);
    } else if (connections_.load() > 0) {
      co_await role_signal_.wait();
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
      if (!role_over_ && lingers) co_await role_signal_.wait_until(*unused_until);
      if (!role_over_ && !lingers) co_await role_signal_.wait();
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

// No store takes anything from here, for a while. Another process may have other credentials, or
// another network; where it has not, whoever has the role has it for longer each time.
bool Database::cannot_ship() {
  const auto time = steady_clock::now();
  for (const auto& replicator : replicators_) {
    if (replicator->shipping()) {
      patience_ = kTurn;
      return false;
    }
    const auto failing = replicator->failing();
    if (!failing) return false;
    // An outage is everybody's, mostly.
    if (time < failing->since + (failing->refused ? patience_ : kOutageTurns * patience_)) {
      return false;
    }
  }
  return !replicators_.empty();
}

// Who was killed between a commit and its capture, or before it could tell of it, tells nobody, and
// nor does a program without the shim. One timer for all databases, and no system call: what has
// the wal-index mapped reads it.
asio::awaitable<void> Database::look_for_untold() {
  asio::steady_timer timer(Engine::get().executor());
  for (bool any = true; any;) {
    timer.expires_after(kUntold);
    co_await timer.async_wait(asio::use_awaitable);
    any = false;
    for (const auto& database : all()) {
      if (database->replicators_.empty()) continue;
      any = true;
      if (database->is_changed_wal()) database->capture_signal_.notify();
    }
  }
  registry().looks = false;
}

// Since the last time. What was captured meanwhile costs a look at the outbox.
bool Database::is_changed_wal() {
  const std::lock_guard pinned(mapping_mutex_);
  if (mappings_.empty() || mappings_.front()->regions.empty()) return false;
  const volatile void* region0 = mappings_.front()->regions.front();
  const std::pair seen{capture::peek_change(region0), capture::peek_frames(region0)};
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
      if (self->moved_.load()) self->role_wanted_ = true;
      if (self->role_wanted_ || self->blind_.load() || self->connections_.load() == 0 ||
          self->cannot_ship()) {
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
    std::optional<std::uint64_t> folded;  // to this size
    std::string error;
    try {
      co_await on_worker([&] { self->fold_outbox(uses); });
      folded = co_await on_worker([&] { return self->outbox_size(); });
    } catch (const std::exception& e) {
      error = text_of(e);
    }
    const std::uint64_t left = folded.value_or(*size);
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

void Database::fold_outbox(const std::vector<OutboxUse>& uses) {
  const auto place = capture::OutboxPlace::of(path(), settings_.outbox_dir);
  auto files = log_files();
  // Behind the current one: what another process is beginning, or died while it began it.
  const std::uint64_t current = known_log_.load();
  std::erase_if(files, [&](std::uint64_t first) { return first > current; });
  for (const auto& run : plan_folds(files, uses)) {
    fold(place, run);
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
  if (connections_.load() == 0) {
    // Here and not later: an exit tells for itself as long as the database is known.
    if (co_await on_worker([&] { return tell_who_ships(kLongestWait); })) {
      closed_ = close_if_unused();
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

std::optional<capture::Tail> Database::tail() const {
  const std::lock_guard lock(status_mutex_);
  return tail_;
}

std::vector<std::uint64_t> Database::log_files() {
  const std::lock_guard lock(capture_mutex_);
  return outbox_ ? outbox_->log_files() : std::vector<std::uint64_t>{};
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
  if (!outbox_ || !outbox_->tail()) return;
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

void Database::hurry() {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (lock.try_lock_for(kLongestWait) && capturer_) capturer_->hurry();
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
    if (cut_short) {
      log::warn(
          "the program ends before all that was committed is in the replica: the next one that "
          "opens "
          "the database ships it; raise shutdown-timeout, or run \"sqlstream sync\"",
          {{"db", path()}});
    }
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

void Database::let_go() noexcept {
  std::unique_lock lock(capture_mutex_, std::defer_lock);
  if (lock.try_lock_for(kSoon) && outbox_ && outbox_->has_role()) outbox_->release_role();
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
    if (generation_alive() && wait_shipped(*target, deadline)) return true;
    if (steady_clock::now() >= deadline) return false;
    // The generation ended meanwhile: what is to be shipped is in the next one. Another process may
    // be the one that can begin it.
    std::this_thread::sleep_for(kSoon * 10);
  }
}

bool Database::wait_shipped(const capture::Tail& target, steady_clock::time_point deadline) {
  start();
  const Flushing flushing(*this, kShip);
  const std::string outbox = outbox_directory();
  const auto shipped = [&] {
    for (std::size_t i = 0; i < replica_status_.size(); ++i) {
      auto generation = replica_status_[i].generation;
      auto sequence = replica_status_[i].sequence;
      if (role_ == Role::watching) {
        const auto noted =
            load_replica_note(replica_note_path(outbox, settings_.replicas[i].store.url()));
        if (!noted || !noted->end || noted->boot != boot_hash()) return false;
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
bool Database::wait_with_others(std::uint64_t ticket, steady_clock::time_point deadline) {
  const std::uint64_t enough = durability_.promised();
  if (enough == 0) return false;
  if (ticket >= enough) tell(kShip);
  return durability_.wait_promised(
      ticket, std::min<steady_clock::time_point>(deadline, steady_clock::now() + kRetry));
}

// What a note says was proven by the process that wrote it. One from before the machine started
// anew may be ahead of the outbox, which is not fsynced.
void Database::look_at_notes() noexcept try {
  const std::string outbox = outbox_directory();
  for (std::size_t i = 0; i < settings_.replicas.size(); ++i) {
    const auto noted =
        load_replica_note(replica_note_path(outbox, settings_.replicas[i].store.url()));
    if (!noted || !noted->end || noted->boot != boot_hash()) continue;
    durability_.shipped(i, {noted->end->sequence, noted->commit_time});
  }
} catch (const std::exception&) {
  // They are looked at again.
}

bool Database::reached(std::uint64_t sequence, steady_clock::time_point deadline) {
  while (steady_clock::now() < deadline && !durability_.stopped()) {
    if (role() == Role::shipping) {
      // It may be lost meanwhile, though hardly ever.
      const auto soon = steady_clock::now() + kRetry;
      if (durability_.wait(sequence, std::min<steady_clock::time_point>(deadline, soon))) {
        return true;
      }
      continue;
    }
    // One looks, and tells the others of this process.
    const std::unique_lock looking(looking_at_notes_, std::try_to_lock);
    if (looking) look_at_notes();
    const auto next = steady_clock::now() + (looking ? kNoteInterval : kNoteInterval * 10);
    if (durability_.wait(sequence, std::min<steady_clock::time_point>(deadline, next))) return true;
  }
  return durability_.end().sequence >= sequence;
}

void Database::wait_durable(std::uint64_t ticket, std::chrono::milliseconds limit,
                            const CaptureNow& capture) {
  if (Engine::running() == nullptr || is_behind()) return;
  somebody_waits();
  const auto deadline = steady_clock::now() + limit;
  bool done = wait_with_others(ticket, deadline);
  if (!done) {
    const std::uint64_t sequence = sequence_of(ticket, deadline, capture);
    if (sequence != 0) {
      ship_at_once(sequence);
      done = reached(sequence, deadline);
    }
  }
  if (done) {
    // Another process may have left the mark.
    if (behind_marked_.exchange(false)) mark_behind({});
    return;
  }
  if (!durability_.stopped() && Engine::running() != nullptr) fall_behind(ticket, limit);
}

bool Database::refuses_writes() {
  return settings_.sync_fail && is_behind();
}

// Asked at each commit until the replicas have caught up.
bool Database::is_behind() {
  const auto behind = durability_.behind();
  if (!behind) return false;
  // Who has only begun to ship knows no more than the notes of those before.
  if (role() != Role::shipping || durability_.end().sequence == 0) look_at_notes();
  return !caught_up(*behind);
}

void Database::shipped(std::size_t replica, Durability::End end) {
  durability_.shipped(replica, end);
  if (const auto behind = durability_.behind()) caught_up(*behind);
}

// The replicas have the commit that was waited for in vain, and all that came later or nearly so:
// else the next one would only wait in vain, too.
bool Database::caught_up(const Durability::Behind& behind) {
  const auto end = durability_.end();
  const auto known = tail();
  if (!known) return false;
  const std::uint64_t wanted =
      behind.ticket == 0 ? behind.sequence : durability_.sequence_of(behind.ticket);
  if (wanted == 0 || end.sequence < wanted) return false;
  if (end.sequence < known->last.sequence && now() - end.commit_time > behind.limit / 2) {
    return false;
  }
  if (durability_.catch_up()) {
    mark_behind({});
    log::info(settings_.sync_fail ? "the replica has caught up: writes go on"
                                  : "the replica has caught up: commits wait for it again",
              {{"db", path()}});
  }
  return true;
}

void Database::fall_behind(std::uint64_t ticket, std::chrono::milliseconds limit) {
  const Time since = now();
  if (!durability_.fall_behind({since, ticket, limit})) return;
  mark_behind(since);
  const std::string what =
      paused() ? "a commit is not in the replica, since replication pauses"
               : "a commit is not in the replica after " + std::to_string(limit.count()) + " ms";
  if (settings_.sync_fail && can_refuse()) {
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

std::string Database::status_json(std::chrono::milliseconds sync, bool moved, bool seen) {
  // What is found here was committed without this process, or before its background looked.
  auto found = capture_in_background();
  if (found == capture::Outcome::try_again) found = capture_in_background();
  if (found == capture::Outcome::captured) wake();
  moved |= moved_.load();
  is_behind();
  std::uint64_t outbox_bytes = 0;
  bool left = false;
  std::vector<std::uint64_t> files;
  {
    std::unique_lock lock(capture_mutex_, std::defer_lock);
    if (lock.try_lock_for(kLongestWait)) {
      left = has_left_wal();
      try {
        if (outbox_) {
          outbox_bytes = outbox_->size();
          files = outbox_->log_files();
        }
      } catch (const std::system_error&) {  // its error says so
      }
    }
  }
  const std::string outbox = outbox_directory();
  std::vector<std::optional<Time>> since;
  for (std::size_t i = 0; i < settings_.replicas.size(); ++i) {
    since.push_back(missing_since(i, outbox, files));
  }
  const std::lock_guard lock(status_mutex_);
  JsonObject json;
  json.add("db", path());
  const bool paused = moved || left || !obstacle_.empty();
  json.add("state", paused ? "paused" : tail_ && alive_.load() ? "replicating" : "waiting");
  if (tail_) {
    json.add("generation", tail_->generation.str())
        .add("sequence", tail_->last.sequence)
        .add("last_commit", format_rfc3339(to_time(tail_->last.last_commit)));
  }
  json.add("outbox", outbox).add("outbox_bytes", outbox_bytes);
  const int sqlite = host_.api->libversion_number();
  json.add("sqlite", sqlite_version_text(sqlite))
      .add("sqlite_wal_reset_bug", has_wal_reset_bug(sqlite))
      .add("shipping", role_ == Role::shipping   ? "this process"
                       : role_ == Role::watching ? "another process"
                                                 : "none");
  if (moved) {
    json.add("error", kMoved);
  } else if (left) {
    json.add("error",
             "the application chose a journal mode other than WAL; set PRAGMA journal_mode=WAL");
  } else if (!obstacle_.empty()) {
    json.add("error", obstacle_);
  } else if (const auto& error = capture_error_.empty() ? role_error_ : capture_error_;
             !error.empty()) {
    json.add("error", error);
  }
  const auto behind = durability_.behind();
  if (sync.count() > 0 || behind) {
    JsonObject mode;
    mode.add("limit_ms", sync.count())
        .add("replicas", settings_.sync_any ? "any" : "all")
        .add("policy", settings_.sync_fail ? "fail" : "degrade")
        .add("state", !behind && !moved                   ? "synchronous"
                      : settings_.sync_fail && refusable_ ? "refusing writes"
                                                          : "degraded");
    if (behind) mode.add("since", format_rfc3339(behind->since));
    json.add_json("sync", mode.text());
  }
  std::string replicas;
  for (std::size_t i = 0; i < replica_status_.size(); ++i) {
    replicas +=
        (i == 0 ? "" : ",") + replica_json(i, outbox, moved, seen && seen_through(found), since[i]);
  }
  return json.add_json("replicas", '[' + replicas + ']').text();
}

// When the first commit was made that the replica has not, as far as the outbox tells.
std::optional<Time> Database::missing_since(std::size_t number, const std::string& outbox,
                                            const std::vector<std::uint64_t>& files) const noexcept
    try {
  std::uint64_t sequence = 0;
  std::uint64_t last = 0;
  bool noted_by_others = false;
  {
    const std::lock_guard lock(status_mutex_);
    if (!tail_) return std::nullopt;
    sequence = replica_status_[number].sequence;
    last = tail_->last.sequence;
    noted_by_others = role_ != Role::shipping || sequence == 0;
  }
  if (noted_by_others) {
    const std::string url = settings_.replicas[number].store.url();
    const auto noted = load_replica_note(replica_note_path(outbox, url));
    if (noted && noted->end) sequence = noted->end->sequence;
  }
  if (sequence >= last || files.empty()) return std::nullopt;
  return first_commit_behind(outbox, files, sequence, last);
} catch (const std::exception&) {
  return std::nullopt;
}

// Precondition: status_mutex_ is held.
std::string Database::replica_json(std::size_t number, const std::string& outbox, bool moved,
                                   bool seen, std::optional<Time> since) const {
  ReplicaStatus status = replica_status_[number];
  const std::string url = settings_.replicas[number].store.url();
  if (role_ != Role::shipping) {
    const auto noted = load_replica_note(replica_note_path(outbox, url));
    if (noted && noted->end) {
      status.generation = noted->end->generation;
      status.position = noted->end->position;
      status.sequence = noted->end->sequence;
      status.snapshot_time = noted->snapshot_time;
      status.validation = noted->validation;
    }
    if (noted) {
      status.error = noted->error;
      status.error_since = noted->error_since;
    } else if (role_ == Role::watching && now() > role_since_ + kNoteDue) {
      status.error =
          "the process that ships knows no such replica; give all programs that open this database "
          "the same ones";
      status.error_since = role_since_;
    }
  }
  JsonObject json;
  json.add("name", settings_.replicas[number].name).add("url", url);
  if (status.sequence != 0) {
    json.add("generation", status.generation.str())
        .add("index", status.position.index)
        .add("offset", status.position.offset)
        .add("sequence", status.sequence);
  }
  // Sequences only grow, over generations, too.
  const bool in_sync =
      seen && tail_ && !moved && capture_error_.empty() &&
      ((status.generation == tail_->generation && status.sequence >= tail_->last.sequence) ||
       (alive_.load() && durability_.end_of(number) >= tail_->last.sequence));
  json.add("in_sync", in_sync);
  if (tail_ && !in_sync && !moved) {
    const Time first = since.value_or(to_time(tail_->last.first_commit));
    const auto lag = std::chrono::duration_cast<std::chrono::milliseconds>(now() - first).count();
    json.add("lag_ms", std::max<std::int64_t>(0, lag));
  }
  if (status.snapshot_time != Time{}) json.add("snapshot", format_rfc3339(status.snapshot_time));
  if (!status.error.empty()) {
    json.add("error", status.error).add("error_since", format_rfc3339(status.error_since));
  }
  const ValidationState& validation = status.validation;
  if (validation.verified != Time{}) json.add("verified", format_rfc3339(validation.verified));
  if (!validation.error.empty()) {
    json.add("verify_error", validation.error)
        .add("verify_error_since", format_rfc3339(validation.error_since));
  }
  return json.text();
}

}  // namespace sqlstream
