#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <sqlite3.h>
#include <sqlite3ext.h>

#include "capture/capturer.h"
#include "shipper/settings.h"

namespace sqlstream {

/// The SQLite library that registered the shim, and the VFS beneath it. One process may hold
/// several; each registration has its own Host, which lives as long as the process.
struct Host {
  const sqlite3_api_routines* api = nullptr;
  sqlite3_vfs* base = nullptr;
};

/// What replication is told about one main database file an application's connection has open. The
/// shim calls these from its methods, on the application's thread, one call at a time per
/// Connection; other Connections of the same database may be called at the same time.
///
/// None throws, none changes SQLite's result codes. Those marked *waits* may capture before they
/// return (bounded: 2 s once per generation); the others cost a few atomic operations.
class Connection {
 public:
  /// Starts replicating `settings.path` in this process, or joins what other connections started.
  /// `file` is the base VFS's file, open and valid until the Connection is destroyed; `name` is the
  /// name it was opened with (as xOpen got it: URI parameters behind it). Throws std::bad_alloc
  /// only: what else is wrong is in status() and the log. Called in xOpen, after the base opened
  /// the file. Null where it cannot be replicated, or with `strictly` not as the settings say:
  /// `reason` says why then.
  static std::unique_ptr<Connection> open(const Host& host, DatabaseSettings settings,
                                          sqlite3_file* file, const char* name, int open_flags,
                                          bool strictly, std::string& reason);

  /// xClose, before the base closes the file.
  virtual ~Connection() = default;

  /// After xShmMap returned `pointer` (not null) for `region`.
  virtual void region_mapped(int region, volatile void* pointer) noexcept = 0;
  /// Before xShmUnmap is passed on. *waits*
  virtual void unmapping(bool delete_flag) noexcept = 0;

  /// After xShmLock(0, 1, LOCK|EXCLUSIVE) succeeded / after its UNLOCK was passed on: a commit may
  /// have become visible.
  virtual void write_lock_obtained() noexcept = 0;
  virtual void write_lock_released() noexcept = 0;
  /// After xShmLock(4, 4, LOCK|EXCLUSIVE) succeeded, before SQLite may reset the WAL. *waits*
  virtual void reset_lock_obtained() noexcept = 0;
  /// After an xShmLock(LOCK|EXCLUSIVE) that has slot 2, which only a recovery of the wal-index
  /// takes, succeeded.
  virtual void recovery_lock_obtained() noexcept = 0;
  /// After xShmLock(1, 1, LOCK|EXCLUSIVE) succeeded / after a checkpoint that has written, *waits*
  /// up to 10 ms, before its UNLOCK is passed on: nobody else checkpoints in between.
  virtual void checkpoint_lock_obtained() noexcept = 0;
  virtual void checkpoint_lock_releasing() noexcept = 0;

  /// After xLock(level) succeeded. For SQLITE_LOCK_EXCLUSIVE *waits*
  virtual void locked(int level) noexcept = 0;
  /// Before xUnlock(level) is passed on / after. `unlocked` may open a brief connection of its own.
  virtual void unlocking(int level) noexcept = 0;
  virtual void unlocked(int level) noexcept = 0;
  /// Before xWrite of `size` bytes at `offset` of the main file / before its xTruncate to `size`
  /// (any mode): during a checkpoint what a snapshot needs is saved first.
  virtual void database_writing(std::int64_t offset, int size) noexcept = 0;
  virtual void database_truncating(std::int64_t size) noexcept = 0;
  /// After either: only notes it.
  virtual void database_written() noexcept = 0;

  /// xFileControl SQLITE_FCNTL_CKPT_START, before it is passed on. *waits*
  virtual void checkpoint_starting() noexcept = 0;
  /// xFileControl SQLITE_FCNTL_COMMIT_PHASETWO, after it was passed on. Behind a checkpoint in
  /// exclusive mode *waits* up to 10 ms
  virtual void commit_phase_two() noexcept = 0;

  /// The -wal file of this database, through the shim: before `size` bytes are written at offset 0,
  /// which is the header of a WAL that begins (again). *waits*
  virtual void wal_beginning(const void* header, int size) noexcept = 0;
  /// … before it is truncated to nothing. *waits*
  virtual void wal_emptying() noexcept = 0;
  /// … before it is deleted: told to every Connection of that database in this process. *waits*
  virtual void wal_deleting() noexcept = 0;

  /// Captures what is committed, on the application's thread. `must`: what is not captured now is
  /// about to be lost, so a failure gives the generation up. *waits*
  virtual capture::Outcome capture(bool must) noexcept = 0;
  /// Turns WAL mode on where a database has content and is not in it, unless the application chose
  /// that, or its pages have reserved bytes; waits up to `patience` for others that are busy with
  /// it. What SQLite said where it could not be turned on, else SQLITE_OK.
  virtual int enable_wal(std::chrono::milliseconds patience) noexcept = 0;
  /// The first region of the wal-index while this connection has it mapped, else null.
  virtual const volatile void* wal_index() noexcept = 0;

  // --- The synchronous mode: how long this connection's commits wait for the replicas; 0: they do
  // not.
  std::chrono::milliseconds sync_limit() const { return sync_limit_; }
  void set_sync_limit(std::chrono::milliseconds limit) { sync_limit_ = limit; }
  /// Before the write lock's UNLOCK is passed on, or where there is none (in exclusive mode,
  /// outside WAL mode) behind COMMIT_PHASETWO: stands for what this connection has committed till
  /// now. 0: nothing since it obtained the lock.
  virtual std::uint64_t take_ticket() noexcept = 0;
  /// Waits up to `limit` for that commit to be in the replicas, by capturing and asking for it to
  /// be shipped at once. Returns at once while the database is behind, at the process's end and in
  /// a forked child. Not while a lock of SQLite's is held that others may need. *waits*
  virtual void wait_durable(std::uint64_t ticket, std::chrono::milliseconds limit) noexcept = 0;
  /// Between a write to the database outside WAL mode and the unlock behind it.
  virtual bool outside_wal() const noexcept = 0;
  /// No unlock follows a commit outside WAL mode: the application chose locking_mode=EXCLUSIVE.
  virtual bool keeps_locks() const noexcept = 0;
  /// It chose it, or the other one, by PRAGMA.
  virtual void set_keeps_locks(bool keeps) noexcept = 0;
  /// Throws Error where commits wait, `sync-policy: fail` asks for no less, and
  /// locking_mode=EXCLUSIVE would keep them out of the replicas.
  virtual void check_exclusive() const = 0;
  /// The same for a journal mode other than WAL, set while the locks are kept: then nothing is left
  /// that could refuse a write.
  virtual void check_journal_mode() const = 0;
  /// The replicas have not what was committed before, and `sync-policy: fail` forbids to add to it.
  virtual bool refuses_writes() noexcept = 0;
  /// … to the -wal file, where it is also forbidden to write what nobody would see.
  virtual bool refuses_wal_writes() noexcept = 0;

  /// The state of this database as JSON, for PRAGMA sqlstream_status and sqlstream_status().
  /// `seen`: false where SQLite could not read the database just now, so that nothing tells what
  /// others committed.
  virtual std::string status_json(bool seen) noexcept = 0;

  /// Waits until everything this process has seen committed is in every replica; false on time-out
  /// or when replication is paused. Takes no SQLite lock. *waits*
  virtual bool wait_shipped(std::chrono::milliseconds limit) noexcept = 0;

 private:
  std::chrono::milliseconds sync_limit_{0};
};

/// Called once per process before any Connection: installs fork and exit handlers.
void start_engine() noexcept;

/// Ships what is committed in all databases of this process, for up to their shutdown-timeout.
/// `hurry`: a new generation begins without the pause after quick ones, since nobody may follow
/// this process, which goes on for a moment and keeps its roles. What cannot be captured at all is
/// said in the log.
void flush_databases(bool hurry = false) noexcept;

/// Flushes every database for up to its shutdown timeout; called at normal process exit.
void flush_at_exit() noexcept;

}  // namespace sqlstream
