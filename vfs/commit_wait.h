#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <sqlite3.h>
#include <sqlite3ext.h>

#include "shipper/connection.h"

/// The synchronous mode: at which moment a commit waits until the replicas have it.
///
/// A commit that waits must hold no lock of SQLite's, so that readers and other writers go on, and
/// no read mark, which would keep the WAL from being reset. SQLite releases the write lock, sends
/// COMMIT_PHASETWO, and then releases the read mark: behind that a commit waits. While another
/// statement of the connection reads, and in exclusive mode, no release follows: then it waits at
/// COMMIT_PHASETWO. A commit to several attached databases goes through these steps for one after
/// the other: it waits when the last write lock is released, for all of them.
namespace sqlstream {

class CommitWait;

/// The files of one SQLite connection. Used, as all of it here, on the threads SQLite lets use that
/// connection, one at a time.
class ConnectionWaits {
 public:
  /// By PRAGMA, for the files there are and those attached later.
  void choose(std::chrono::milliseconds limit);

 private:
  friend class CommitWait;
  void refresh();
  void wait_if_free() noexcept;

  std::vector<CommitWait*> files_;
  std::optional<std::chrono::milliseconds> chosen_;
  int locks_ = 0;            // write locks, of files_
  int pending_ = 0;          // files with a commit that is to be waited for
  bool committing_ = false;  // what locks_ are held for is not refused any more
};

/// The ConnectionWaits of one SQLite library, by connection. Thread-safe.
class ConnectionsWaits {
 public:
  std::shared_ptr<ConnectionWaits> of(sqlite3* db);

 private:
  std::mutex mutex_;
  std::map<sqlite3*, std::weak_ptr<ConnectionWaits>> all_;
};

/// One replicated main database file of a connection. The methods from write_lock_obtained() on are
/// told what SQLite does with it, and are not to be called unless active().
class CommitWait {
 public:
  /// `api` and `replication` must outlive it. `own_limit`: how long commits wait unless a PRAGMA
  /// says otherwise; 0: they do not. `shared`: a shared cache, whose connections are not known
  /// here.
  CommitWait(const sqlite3_api_routines& api, Connection& replication,
             std::chrono::milliseconds own_limit, bool shared);
  CommitWait(const CommitWait&) = delete;
  CommitWait& operator=(const CommitWait&) = delete;
  ~CommitWait();

  /// FCNTL_PDB: SQLite keeps there which connection the file belongs to.
  void belongs_to(sqlite3** db, ConnectionsWaits& all);
  ConnectionWaits& connection() { return *group_; }
  /// The connection's, null while it is not known.
  sqlite3* db() const { return db_ ? *db_ : nullptr; }

  /// Commits of this connection wait.
  bool active() const { return active_; }
  /// After xShmLock(0, 1, LOCK|EXCLUSIVE) / before its UNLOCK is passed on.
  void write_lock_obtained() noexcept;
  void write_lock_releasing() noexcept;
  /// With sync-policy: fail, before a write to the -wal file: it has to fail, since the replicas
  /// have not what was committed before. `commits`: it makes a transaction visible. SQLite makes
  /// that of several attached databases visible in one after the other, so the first of them is
  /// refused for all. Also to be asked where not active().
  bool refuses(bool commits) noexcept;
  /// COMMIT_PHASETWO, after it was passed on. `exclusive`: the file is locked EXCLUSIVE. May wait.
  void committed(bool exclusive) noexcept;
  /// A read mark was released. May wait.
  void read_mark_released() noexcept { group_->wait_if_free(); }
  /// The file's last lock was released. May wait.
  void unlocked() noexcept;

 private:
  friend class ConnectionWaits;
  void become_shared() noexcept;
  void join(std::shared_ptr<ConnectionWaits> group);
  void leave();
  void unlock() noexcept;
  bool must_refuse() noexcept;
  void pend();
  bool release_follows() const;

  const sqlite3_api_routines& api_;
  Connection& replication_;
  std::chrono::milliseconds own_limit_;
  bool shared_;
  std::atomic<bool> joined_{false};  // by another connection
  sqlite3** db_ = nullptr;
  std::shared_ptr<ConnectionWaits> group_;
  bool active_ = false;
  bool locked_ = false;       // counted in group_->locks_
  bool pending_ = false;      // counted in group_->pending_
  bool outside_wal_ = false;  // committed, and to be waited for once it is unlocked
  std::uint64_t ticket_ = 0;  // of the commit in progress; 0: it changes nothing
};

}  // namespace sqlstream
