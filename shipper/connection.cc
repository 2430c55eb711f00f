#include "shipper/connection.h"

#include <new>
#include <utility>

#include "base/error.h"
#include "base/fork.h"
#include "base/guarded.h"
#include "base/json.h"
#include "base/log.h"
#include "shipper/database.h"
#include "shipper/source_file.h"

namespace sqlstream {
namespace {

constexpr const char* kForked =
    "what is committed over a connection that was opened before a fork() is not replicated; open "
    "the database anew in the child";

class OpenConnection final : public Connection {
 public:
  OpenConnection(const Host& host, const DatabaseSettings& settings, sqlite3_file* file)
      : file_(file),
        terms_(settings.sync_terms),
        saver_(capture::OutboxPlace::directory_of(settings.path, settings.outbox_dir)) {
    mapping_.regions.reserve(kRegions);
    const auto named = capture::identify(settings.path);
    int moved = 0;  // since it was opened; for a VFS that does not know, it was not
    file_->pMethods->xFileControl(file_, SQLITE_FCNTL_HAS_MOVED, &moved);
    if (named && moved == 0) mapping_.file = *named;
    database_ = Database::attach(host, settings);
  }

  ~OpenConnection() override {
    if (!database_) return;
    if (!database_->ours()) {
      // The parent's object: its locks may be held by threads that do not exist here.
      static_cast<void>(new (std::nothrow) std::shared_ptr<Database>(std::move(database_)));
      return;
    }
    drop_mapping();
    guarded("closing", [&] { note_if_clean(); });
    // A program that only created its database: the background may have had no time to look.
    if (turned_on_) database_->capture_in_background();
    guarded("closing", [&] { database_->closed(); });
  }

  /// Once, when it is open. `waits`: its commits do.
  void begin(bool waits) {
    database_->opened(waits);
    enable_wal({});
  }

  void region_mapped(int region, volatile void* pointer) noexcept override {
    if (!database_->ours()) return;
    guarded("mapping", [&] {
      bool first = false;
      {
        const std::lock_guard lock(database_->mapping_mutex());
        auto& regions = mapping_.regions;
        const auto index = static_cast<std::size_t>(region);
        // Regions come in order; SQLite asks again for those it has.
        if (index > regions.size() || (index < regions.size() && regions[index] == pointer)) return;
        if (index < regions.size()) {
          regions[index] = pointer;
        } else {
          regions.push_back(pointer);
        }
        first = index == 0;
        if (first) database_->mapped(mapping_);
      }
      if (!first) return;
      had_wal_ = true;
      wal_in_memory_ = false;
      written_ = false;  // before it: a journal that a crash left was rolled back
      database_->set_obstacle({});
      database_->wake();
    });
  }

  void unmapping(bool) noexcept override {
    if (!database_->ours()) return;
    guarded("unmapping", [&] {
      if (mapping_.regions.empty()) return;
      saver_.end(mapping_.regions[0]);
      const auto outcome = capture(true);
      closed_whole_ = exclusive_ && seen_through(outcome) && is_in_file();
      // The last checkpoint takes no lock of its own, and may have failed.
      if (exclusive_ && std::exchange(checkpoints_, false) && !closed_whole_) {
        database_->checkpoint_ended(mapping_);
      }
      drop_mapping();
      // The program may end at once, without a word from the engine.
      if (outcome == capture::Outcome::captured) {
        database_->tell_who_ships(std::chrono::milliseconds(5));
      }
    });
  }

  void write_lock_obtained() noexcept override {
    if (sync_limit().count() > 0 && usable()) {
      waited_change_ = capture::peek_change(mapping_.regions[0]);
    }
  }

  void write_lock_released() noexcept override { look_for_commit(); }

  void reset_lock_obtained() noexcept override { must_capture(); }

  void recovery_lock_obtained() noexcept override {
    if (database_->ours()) database_->recovering();
  }

  void checkpoint_lock_obtained() noexcept override {
    if (!usable()) return;
    before_ = capture::read_checkpoint_progress(mapping_.regions[0]);
    saver_.checkpoint_allowed(mapping_.regions[0]);
  }

  void checkpoint_lock_releasing() noexcept override {
    if (saver_.active() && usable()) saver_.end(mapping_.regions[0]);
    if (std::exchange(checkpoints_, false) && usable()) database_->checkpoint_ended(mapping_);
  }

  void locked(int level) noexcept override {
    if (level != SQLITE_LOCK_EXCLUSIVE || !usable()) return;
    exclusive_ = true;
    before_ = capture::read_checkpoint_progress(mapping_.regions[0]);
    saver_.checkpoint_allowed(mapping_.regions[0]);
    must_capture();
  }

  void unlocking(int level) noexcept override {
    if (!database_->ours()) return;
    if (level >= SQLITE_LOCK_EXCLUSIVE) return;
    committed_outside_wal_ = false;
    // Others may checkpoint from now on.
    if (exclusive_ && saver_.active() && usable()) saver_.end(mapping_.regions[0]);
    guarded("unlocking", [&] { note_if_clean(); });
  }

  void unlocked(int level) noexcept override {
    if (level != SQLITE_LOCK_NONE || !written_ || !database_->ours()) return;
    written_ = false;
    guarded("unlocked", [&] {
      if (had_wal_) {
        // It was in WAL mode in this connection's own time: the application changed that.
        had_wal_ = false;
        if (!is_moved()) database_->leave_wal();
      } else {
        enable_wal({});
      }
    });
  }

  void database_writing(std::int64_t offset, int size) noexcept override {
    if (!saver_.active() || !usable()) return;
    saver_.writing(static_cast<std::uint64_t>(offset), static_cast<std::size_t>(size), reader());
  }

  void database_truncating(std::int64_t size) noexcept override {
    if (!saver_.active() || !usable()) return;
    saver_.truncating(static_cast<std::uint64_t>(size), reader());
  }

  void database_written() noexcept override {
    if (!mapping_.regions.empty() || written_ || !database_->ours()) return;
    // Not by a checkpoint: outside WAL mode. What is known of this file is no longer true.
    written_ = true;
    guarded("writing", [&] { give_up("the database was written outside WAL mode"); });
  }

  void checkpoint_starting() noexcept override {
    if (!usable()) return;
    auto outcome = capture::Outcome::failed;
    guarded("a checkpoint",
            [&] { outcome = note(database_->checkpoint_begins(mapping_, mapper(), before_)); });
    checkpoints_ = true;
    // Nothing else tells of its end then.
    if (exclusive_) database_->look_behind_checkpoint();
    // Else the generation ended, and a snapshot with it; or it is another file's.
    if (seen_through(outcome)) {
      saver_.begin(database_->snapshot_in_place(), database_->room_for_pages(),
                   mapping_.regions[0]);
    }
  }

  void commit_phase_two() noexcept override {
    // In exclusive mode nothing else tells that a checkpoint came to its end.
    if (saver_.active() && usable()) saver_.end(mapping_.regions[0]);
    if (exclusive_ && std::exchange(checkpoints_, false) && usable()) {
      before_ = capture::read_checkpoint_progress(mapping_.regions[0]);
      database_->checkpoint_ended(mapping_);
    }
    if (exclusive_) look_for_commit();
    if (!mapping_.regions.empty() || !database_->ours()) return;
    if (written_) {
      // A second one without an unlock in between tells as well as the PRAGMA.
      if (std::exchange(committed_outside_wal_, true)) keeps_locks_ = true;
      if (!keeps_locks_ || wal_in_memory_) return;
      guarded("a commit that keeps its locks", [&] {
        database_->set_obstacle(
            "locking_mode=EXCLUSIVE was set before the database was in WAL mode, which cannot be "
            "turned on while it is locked; set PRAGMA journal_mode=WAL and read once before, or do "
            "not set it",
            false);
      });
      return;
    }
    // In the WAL, without a wal-index that could be read.
    wal_in_memory_ = true;
    guarded("a commit without shared memory", [&] {
      give_up("the WAL is in use without a wal-index in shared memory");
      database_->set_obstacle(
          "locking_mode=EXCLUSIVE was set before the WAL was opened, so its index is in the "
          "application's memory only; set it after the first read, or not at all");
    });
  }

  void wal_beginning(const void* header, int size) noexcept override {
    if (!usable()) return;
    guarded("a new WAL", [&] {
      const auto decoded = wal::decode_header(
          {static_cast<const std::uint8_t*>(header), static_cast<std::size_t>(size)});
      if (decoded) database_->note_new_wal(mapping_, decoded->salt);
    });
  }

  void wal_emptying() noexcept override {
    if (!usable()) return;
    guarded("an emptied WAL", [&] { database_->note_new_wal(mapping_, std::nullopt); });
  }

  void wal_deleting() noexcept override {
    if (!database_->ours()) return;
    guarded("deleting the WAL", [&] {
      const auto identity = capture::identify(database_->path());
      if (!identity || !identity->same_file(mapping_.file)) return;
      if (identity->size == 0) {
        // SQLite deletes a WAL it finds beside an empty database: nothing in it was captured.
        give_up("the WAL beside an empty database was deleted");
      } else if (closed_whole_ && !written_) {
        // Otherwise it does so at the last close only, after a whole checkpoint.
        database_->note_clean_close(mapping_);
      }
    });
  }

  capture::Outcome capture(bool must) noexcept override {
    if (!usable()) return capture::Outcome::failed;
    auto outcome = capture::Outcome::failed;
    guarded("capturing", [&] { outcome = note(database_->capture(mapping_, mapper(), must)); });
    return outcome;
  }

  const volatile void* wal_index() noexcept override {
    return usable() ? mapping_.regions[0] : nullptr;
  }

  std::uint64_t take_ticket() noexcept override {
    if (!database_->ours()) return 0;
    if (!mapping_.regions.empty()) {
      const std::uint64_t change = capture::peek_change(mapping_.regions[0]);
      if (std::exchange(waited_change_, change) == change) return 0;
    }
    return database_->take_ticket();
  }

  void wait_durable(std::uint64_t ticket, std::chrono::milliseconds limit) noexcept override {
    if (!database_->ours()) return;
    guarded("waiting for the replica", [&] {
      if (!is_moved()) {
        database_->wait_durable(ticket, terms_, limit, [this](std::chrono::nanoseconds patience) {
          if (mapping_.regions.empty()) return database_->capture_in_background();
          return database_->capture(mapping_, mapper(), false, patience);
        });
        // Where the file was replaced meanwhile, it was another one's commit that came in time.
        if (!is_moved()) return;
      }
      if (!mapping_.regions.empty()) capture(false);
    });
  }

  bool outside_wal() const noexcept override { return written_ && mapping_.regions.empty(); }
  bool keeps_locks() const noexcept override { return keeps_locks_; }
  void set_keeps_locks(bool keeps) noexcept override { keeps_locks_ = keeps; }
  void check_exclusive() const override {
    if (!must_not_fall_behind() || !mapping_.regions.empty()) return;
    throw Error(
        "locking_mode=EXCLUSIVE would keep commits out of the replica, which sync-policy: fail "
        "forbids; set PRAGMA journal_mode=WAL and read once before");
  }
  void check_journal_mode() const override {
    if (!must_not_fall_behind() || mapping_.regions.empty() || !keeps_locks_) return;
    throw Error(
        "another journal_mode than WAL would keep commits out of the replica, which sync-policy: "
        "fail forbids; stay in WAL mode, or set PRAGMA locking_mode=NORMAL and read once before");
  }

  bool refuses_wal_writes() noexcept override {
    // Without a wal-index, in locking_mode=EXCLUSIVE, nobody sees what is committed.
    if (must_not_fall_behind() && mapping_.regions.empty()) {
      if (!std::exchange(unseen_, true)) guarded("writing", [&] { say_unseen(); });
      return true;
    }
    return refuses_writes();
  }
  bool refuses_writes() noexcept override {
    bool refused = false;
    guarded("writing", [&] {
      refused = database_->ours()
                    ? database_->refuses_writes(terms_) || (moved_ && terms_.fail && is_moved())
                    : terms_.fail;
    });
    return refused;
  }

  std::string status_json(bool seen) noexcept override {
    std::string json = "{}";
    guarded("status", [&] {
      if (!database_->ours()) {
        json = JsonObject()
                   .add("db", database_->path())
                   .add("state", "paused")
                   .add("error", kForked)
                   .text();
        return;
      }
      map_the_rest();
      json = database_->status_json(sync_limit(), terms_, is_moved(), seen);
    });
    return json;
  }

  bool wait_shipped(std::chrono::milliseconds limit) noexcept override {
    bool shipped = false;
    guarded("waiting", [&] {
      if (!database_->ours() || is_moved()) return;
      map_the_rest();
      shipped = database_->wait_shipped(limit);
    });
    return shipped;
  }

  int enable_wal(std::chrono::milliseconds patience) noexcept override {
    int result = SQLITE_OK;
    guarded("turning WAL mode on", [&] {
      if (is_moved()) return;
      // Through what is open: a file that is closed here is one more that SQLite has to keep.
      const SourceFile file(file_, database_->path());
      const auto shape = read_shape(file);
      if (!shape || shape->wal_mode || database_->left_wal()) return;
      if (has_reserved_bytes(file)) {
        database_->set_obstacle(
            "its pages have reserved bytes, where another VFS may keep checksums that sqlstream "
            "cannot make, so turning WAL mode on is left to the application; set PRAGMA "
            "journal_mode=WAL");
        return;
      }
      result = turn_wal_on(database_->host(), database_->path(), patience);
      if (result == SQLITE_OK) {
        log::info("turned WAL mode on", {{"db", database_->path()}});
        turned_on_ = true;
        database_->wake();
      }
    });
    return result;
  }

 private:
  bool usable() const { return !mapping_.regions.empty() && database_->ours(); }

  void say_unseen() const {
    log::error(
        "writes are refused: locking_mode=EXCLUSIVE keeps commits out of the replica, which "
        "sync-policy: fail forbids; set PRAGMA locking_mode=NORMAL and read once",
        {{"db", database_->path()}});
  }
  bool must_not_fall_behind() const {
    return sync_limit().count() > 0 && terms_.fail && database_->ours();
  }
  capture::Outcome note(capture::Outcome outcome) {
    moved_ = capture::tells_moved(outcome).value_or(moved_);
    return outcome;
  }
  bool is_moved() { return moved_ = database_->is_moved(mapping_.file); }
  // On any thread.
  void give_up(const char* why) {
    if (!database_->is_moved(mapping_.file)) database_->give_up(why);
  }

  std::function<const volatile void*(std::size_t)> mapper() {
    return [this](std::size_t region) -> const volatile void* {
      volatile void* pointer = nullptr;
      if (file_->pMethods->xShmMap(file_, static_cast<int>(region), capture::kRegionSize, 0,
                                   &pointer) != SQLITE_OK ||
          pointer == nullptr) {
        return nullptr;
      }
      const std::lock_guard lock(database_->mapping_mutex());
      if (mapping_.regions.size() == region) mapping_.regions.push_back(pointer);
      return pointer;
    };
  }

  capture::PageSaver::ReadFile reader() {
    return [this](std::uint64_t offset, std::span<std::uint8_t> out) {
      const int rc = file_->pMethods->xRead(file_, out.data(), static_cast<int>(out.size()),
                                            static_cast<sqlite3_int64>(offset));
      // A short read fills the rest with zeros: so xRead's contract says.
      return rc == SQLITE_OK || rc == SQLITE_IOERR_SHORT_READ;
    };
  }

  // What other processes let the wal-index grow by; the background, which captures, cannot map it.
  void map_the_rest() {
    if (!usable()) return;
    const auto header = capture::read_wal_index_header(mapping_.regions[0]);
    const std::size_t needed = header ? capture::regions_for(header->frames) : 0;
    const auto map = mapper();
    for (std::size_t i = mapping_.regions.size(); i < needed && map(i) != nullptr; ++i) {
    }
  }

  void must_capture() noexcept { capture(true); }

  // The commit path: a load, and where the counter moved a clock and a few stores.
  void look_for_commit() noexcept {
    if (!usable()) return tell_forked();
    const std::uint64_t change = capture::peek_change(mapping_.regions[0]);
    if (database_->seen_change.load(std::memory_order_relaxed) == change) return;
    database_->seen_change.store(change, std::memory_order_relaxed);
    database_->committed(static_cast<std::uint32_t>(change));
    const std::uint32_t piece = capture::peek_frames(mapping_.regions[0]) / Database::kPiece;
    if (piece > std::exchange(piece_, piece)) database_->capture_soon();
  }

  void tell_forked() noexcept {
    if (database_->ours() || std::exchange(told_forked_, true)) return;
    guarded("telling", [&] { log::error(kForked, {{"db", database_->path()}}); });
  }

  void drop_mapping() noexcept {
    if (mapping_.regions.empty()) return;
    database_->unmapped(mapping_);
    const std::lock_guard lock(database_->mapping_mutex());
    mapping_.regions.clear();
  }

  // The last checkpoint may have failed; then the WAL stays.
  bool is_in_file() const noexcept {
    const auto header = capture::read_wal_index_header(mapping_.regions[0]);
    return header && capture::read_checkpoint_progress(mapping_.regions[0]).done >= header->frames;
  }

  // Still EXCLUSIVE, and the WAL is closed: if it left nothing, the file is the whole state.
  void note_if_clean() {
    if (!exclusive_) return;
    if (closed_whole_ && !written_) database_->note_clean_close(mapping_);
    closed_whole_ = false;
    exclusive_ = false;
  }

  /// There is room for so many from the beginning. Without one for more, captures at hooks map.
  static constexpr std::size_t kRegions = 8;

  std::shared_ptr<Database> database_;
  sqlite3_file* file_;
  const SyncTerms terms_;
  Mapping mapping_;
  capture::PageSaver saver_;
  capture::CheckpointProgress before_;  // of checkpoints, when the lock for this one was obtained
  std::uint32_t piece_ = 0;             // of the WAL, that the last commit seen was in
  bool exclusive_ = false;     // this handle holds EXCLUSIVE, taken while its wal-index was mapped
  bool closed_whole_ = false;  // … and the mapping was given back, all captured and in the file
  bool checkpoints_ = false;   // this connection, between the beginning and the lock's release
  bool moved_ = false;         // as last seen: what it has open is no longer the database's file
  bool written_ = false;       // written outside WAL mode since the last unlock
  bool told_forked_ = false;
  bool keeps_locks_ = false;  // locking_mode=EXCLUSIVE, chosen, or seen by the missing unlock
  bool unseen_ = false;       // it was said that nobody sees what is written
  bool committed_outside_wal_ = false;  // since the last unlock
  bool wal_in_memory_ = false;          // the wal-index is, of a WAL that was committed to
  bool had_wal_ = false;
  bool turned_on_ = false;  // WAL mode, by us
  /// The wal-index's change counter, before what the next commit adds to it.
  std::uint64_t waited_change_ = Database::kNoChange;
};

}  // namespace

std::unique_ptr<Connection> Connection::open(const Host& host, DatabaseSettings settings,
                                             sqlite3_file* file, const char*, int open_flags,
                                             bool strictly, std::string& reason) {
  std::unique_ptr<OpenConnection> connection;
  const auto open = [&] {
    if ((open_flags & SQLITE_OPEN_READONLY) != 0) {
      reason = "it was opened to be read only; whoever writes replicates";
      return;
    }
    if (file->pMethods->iVersion < 2 || file->pMethods->xShmMap == nullptr) {
      reason = "the VFS beneath has no shared memory, so no WAL mode";
      log::warn("cannot replicate: " + reason, {{"db", settings.path}, {"vfs", host.base->zName}});
      return;
    }
    const std::string outbox =
        capture::OutboxPlace::directory_of(settings.path, settings.outbox_dir);
    for (const auto& other : Database::all()) {
      if (other->path() == settings.path) continue;
      if (other->outbox_directory() == outbox) {
        reason = other->path() + " already has the outbox " + outbox +
                 "; give each database an outbox-dir of its own";
        log::error("not replicating: " + reason, {{"db", settings.path}});
        return;
      }
      for (const auto& theirs : other->settings().replicas) {
        for (const auto& ours : settings.replicas) {
          if (ours.store.place() != theirs.store.place()) continue;
          reason = other->path() + " already replicates to " + ours.store.url() +
                   "; give each database a replica of its own ({name} or {path} in "
                   "SQLSTREAM_REPLICA_URL does)";
          log::error("not replicating: " + reason, {{"db", settings.path}});
          return;
        }
      }
    }
    if (const std::string conflict = Database::conflict(host, settings); !conflict.empty()) {
      if (strictly) {
        reason = conflict;
        return;
      }
      log::error(conflict, {{"db", settings.path}});
    }
    start_engine();
    connection = std::make_unique<OpenConnection>(host, settings, file);
    connection->begin(settings.sync_terms.fail || settings.sync.count() > 0);
  };
  try {
    open();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    reason = e.what();
    log::error("not replicating until it is opened again: " + reason, {{"db", settings.path}});
  }
  return connection;
}

void start_engine() noexcept {
  guarded("starting", [] { Engine::get().start(); });
}

}  // namespace sqlstream
