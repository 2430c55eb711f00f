#include "vfs/shim.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <new>
#include <optional>
#include <string_view>
#include <unistd.h>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "config/config.h"
#include "config/units.h"
#include "shipper/first_restore.h"
#include "shipper/source_file.h"
#include "vfs/log_relay.h"
#include "vfs/schemas.h"

namespace sqlstream {
namespace {

// What SQLite's wal.c locks, as slots of the wal-index.
constexpr int kWriteLock = 0;
constexpr int kCheckpointLock = 1;
constexpr int kRecoverLock = 2;
constexpr int kFirstReadLock = 4;
constexpr int kAllReadLocks = 4;  // every read mark but the first: only a reset takes these at once

/// A wrapped file, in the memory SQLite reserved for it; the base VFS's file follows it there.
struct File : sqlite3_file {
  sqlite3_io_methods methods;
  Shim* shim;
};

struct DatabaseFile : File {
  const char* name;
  OpenDatabase database;
  std::unique_ptr<CommitWait> wait;  ///< null: not replicated
  int lock_level = SQLITE_LOCK_NONE;
};

struct WalFile : File {
  ReplicatedDatabase database;
};

constexpr std::size_t kAlignment = 16;
constexpr std::size_t kHeaderSize =
    (std::max(sizeof(DatabaseFile), sizeof(WalFile)) + kAlignment - 1) / kAlignment * kAlignment;

constexpr std::string_view kWalSuffix = "-wal";

sqlite3_file* base_of(sqlite3_file* file) {
  return reinterpret_cast<sqlite3_file*>(reinterpret_cast<char*>(file) + kHeaderSize);
}
DatabaseFile& database_of(sqlite3_file* file) {
  return *static_cast<DatabaseFile*>(file);
}
Connection& connection_of(sqlite3_file* file) {
  return *database_of(file).database.connection;
}
Shim& shim_of(sqlite3_vfs* vfs) {
  return *static_cast<Shim*>(vfs->pAppData);
}
sqlite3_vfs* base_vfs(sqlite3_vfs* vfs) {
  return shim_of(vfs).host.base;
}

// ---------------------------------------------------------------------------------------------
// Files: forwarding

int file_read(sqlite3_file* file, void* to, int amount, sqlite3_int64 offset) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xRead(base, to, amount, offset);
}

int file_write(sqlite3_file* file, const void* from, int amount, sqlite3_int64 offset) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xWrite(base, from, amount, offset);
}

int file_truncate(sqlite3_file* file, sqlite3_int64 size) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xTruncate(base, size);
}

int file_sync(sqlite3_file* file, int flags) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xSync(base, flags);
}

int file_size(sqlite3_file* file, sqlite3_int64* size) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xFileSize(base, size);
}

int file_lock(sqlite3_file* file, int level) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xLock(base, level);
}

int file_unlock(sqlite3_file* file, int level) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xUnlock(base, level);
}

int file_check_reserved_lock(sqlite3_file* file, int* result) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xCheckReservedLock(base, result);
}

int file_control(sqlite3_file* file, int operation, void* argument) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xFileControl(base, operation, argument);
}

int file_sector_size(sqlite3_file* file) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xSectorSize(base);
}

int file_device_characteristics(sqlite3_file* file) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xDeviceCharacteristics(base);
}

int file_shm_map(sqlite3_file* file, int region, int size, int extend, void volatile** pointer) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xShmMap(base, region, size, extend, pointer);
}

int file_shm_lock(sqlite3_file* file, int offset, int n, int flags) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xShmLock(base, offset, n, flags);
}

void file_shm_barrier(sqlite3_file* file) {
  sqlite3_file* base = base_of(file);
  base->pMethods->xShmBarrier(base);
}

int file_shm_unmap(sqlite3_file* file, int delete_flag) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xShmUnmap(base, delete_flag);
}

int file_fetch(sqlite3_file* file, sqlite3_int64 offset, int amount, void** page) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xFetch(base, offset, amount, page);
}

int file_unfetch(sqlite3_file* file, sqlite3_int64 offset, void* page) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xUnfetch(base, offset, page);
}

/// Forwards everything `base` can do, and nothing it cannot: SQLite decides by a table's version
/// and by which members are null (whether WAL is possible, for one).
sqlite3_io_methods forwarding_methods(const sqlite3_io_methods& base) {
  sqlite3_io_methods methods{};
  methods.iVersion = std::min(base.iVersion, 3);
  methods.xRead = file_read;
  methods.xWrite = file_write;
  methods.xTruncate = file_truncate;
  methods.xSync = file_sync;
  methods.xFileSize = file_size;
  methods.xLock = file_lock;
  methods.xUnlock = file_unlock;
  methods.xCheckReservedLock = file_check_reserved_lock;
  methods.xFileControl = file_control;
  methods.xSectorSize = base.xSectorSize ? file_sector_size : nullptr;
  methods.xDeviceCharacteristics =
      base.xDeviceCharacteristics ? file_device_characteristics : nullptr;
  if (base.iVersion >= 2) {
    methods.xShmMap = base.xShmMap ? file_shm_map : nullptr;
    methods.xShmLock = base.xShmLock ? file_shm_lock : nullptr;
    methods.xShmBarrier = base.xShmBarrier ? file_shm_barrier : nullptr;
    methods.xShmUnmap = base.xShmUnmap ? file_shm_unmap : nullptr;
  }
  if (base.iVersion >= 3) {
    methods.xFetch = base.xFetch ? file_fetch : nullptr;
    methods.xUnfetch = base.xUnfetch ? file_unfetch : nullptr;
  }
  return methods;
}

// ---------------------------------------------------------------------------------------------
// Main databases

int database_close(sqlite3_file* file) {
  DatabaseFile& self = database_of(file);
  if (self.database.connection) {
    const std::lock_guard lock(self.shim->mutex);
    self.shim->databases.erase(self.name);
  }
  self.wait.reset();
  self.database.connection.reset();
  log_relay::deliver(*self.shim->host.api);
  sqlite3_file* base = base_of(file);
  const int result = base->pMethods->xClose(base);
  self.~DatabaseFile();
  return result;
}

/// `text` in memory that SQLite frees; null when there is none.
char* sqlite_string(const sqlite3_api_routines& api, const std::string& text) {
  return api.mprintf("%s", text.c_str());
}

/// PRAGMA sqlstream_sync, without a value or with one. Gives what is so then. Throws Error.
std::string sync_pragma(DatabaseFile& self, const char* value) {
  const sqlite3_api_routines& api = *self.shim->host.api;
  Connection* connection = self.database.connection.get();
  if (value != nullptr) {
    const auto limit = config::parse_sync(value);
    if (!limit)
      throw Error(std::string("sqlstream_sync must be off, on or milliseconds, not \"") + value +
                  '"');
    if (connection == nullptr) throw Error("sqlstream_sync: the database is not replicated");
    // As with PRAGMA synchronous.
    sqlite3* db = self.wait->db();
    if (db != nullptr && api.txn_state(db, nullptr) == SQLITE_TXN_WRITE) {
      throw Error("sqlstream_sync may not be changed inside a transaction");
    }
    self.wait->connection().choose(*limit);
  }
  const auto limit =
      connection != nullptr ? connection->sync_limit() : std::chrono::milliseconds(0);
  return limit.count() == 0 ? "off" : std::to_string(limit.count());
}

/// What SQLite takes the value of PRAGMA journal_mode for: the first of its names, in its order,
/// that begins so (pragma.c). Null: for a question.
const char* journal_mode_of(const sqlite3_api_routines& api, const char* value) {
  constexpr std::array<const char*, 6> kModes{"delete",   "persist", "off",
                                              "truncate", "memory",  "wal"};
  const auto length = static_cast<int>(std::strlen(value));
  for (const char* mode : kModes) {
    if (api.strnicmp(value, mode, length) == 0) return mode;
  }
  return nullptr;
}

/// SQLite's own PRAGMAs that change what may be expected of a commit outside WAL mode.
void look_at_pragma(DatabaseFile& self, const char* name, const char* value) {
  const sqlite3_api_routines& api = *self.shim->host.api;
  if (!self.database.connection) return;
  if (api.stricmp(name, "journal_mode") == 0) {
    const char* mode = journal_mode_of(api, value);
    const bool leaves_wal = mode != nullptr && std::string_view(mode) != "wal";
    if (leaves_wal) self.database.connection->check_journal_mode();
  }
  if (api.stricmp(name, "locking_mode") == 0) {
    const bool exclusive = api.stricmp(value, "exclusive") == 0;
    if (exclusive) self.database.connection->check_exclusive();
    self.database.connection->set_keeps_locks(exclusive);
  }
}

/// The shim's own PRAGMAs. SQLITE_NOTFOUND: not one of them.
int database_pragma(DatabaseFile& self, char** argument) noexcept {
  const sqlite3_api_routines& api = *self.shim->host.api;
  const char* name = argument[1];
  try {
    if (api.stricmp(name, "sqlstream_status") == 0) {
      sqlite3* db = self.wait ? self.wait->db() : nullptr;
      const bool seen = db == nullptr || read_once(api, db, self.database);
      argument[0] = sqlite_string(api, self.database.status_json(seen));
    } else if (api.stricmp(name, "sqlstream_version") == 0) {
      argument[0] = sqlite_string(api, SQLSTREAM_VERSION);
    } else if (api.stricmp(name, "sqlstream_sync") == 0) {
      argument[0] = sqlite_string(api, sync_pragma(self, argument[2]));
    } else {
      if (argument[2] != nullptr) look_at_pragma(self, name, argument[2]);
      return SQLITE_NOTFOUND;
    }
  } catch (const Error& error) {
    argument[0] = api.mprintf("%s", error.what());
    return SQLITE_ERROR;
  } catch (const std::exception&) {
    return SQLITE_NOMEM;
  }
  return argument[0] ? SQLITE_OK : SQLITE_NOMEM;
}

/// The connection is in a PRAGMA journal_mode=WAL now. Not known of a shared cache's.
bool turns_wal_on(const DatabaseFile& self) {
  const sqlite3_api_routines& api = *self.shim->host.api;
  sqlite3* db = self.wait->db();
  if (db == nullptr) return false;
  for (sqlite3_stmt* statement = api.next_stmt(db, nullptr); statement != nullptr;
       statement = api.next_stmt(db, statement)) {
    const char* sql = api.sql(statement);
    if (sql == nullptr || api.stmt_busy(statement) == 0) continue;
    sql += std::strspn(sql, " \t\r\n\f");
    if (api.strlike("pragma%journal_mode%w%", sql, 0) == 0) return true;
  }
  return false;
}

/// With `sync-policy: fail`, while the replicas have not what was committed before. At a write to
/// the WAL, since a write lock that is refused would be in the way of checkpoints and of readers
/// that recover, too; outside WAL mode at the lock that a write begins with.
void say_refused(const sqlite3_api_routines& api) {
  log_relay::deliver(api);
  api.log(SQLITE_IOERR_FSYNC,
          "sqlstream: the write is refused: a commit before it is not in the replica yet "
          "(sync-policy: fail)");
}

void remember_connection(DatabaseFile& self, sqlite3** db) noexcept {
  try {
    if (self.wait) self.wait->belongs_to(db, self.shim->waits);
  } catch (const std::bad_alloc&) {  // then each commit waits for itself
  }
}

int database_file_control(sqlite3_file* file, int operation, void* argument) {
  DatabaseFile& self = database_of(file);
  const sqlite3_api_routines& api = *self.shim->host.api;
  Connection* connection = self.database.connection.get();

  switch (operation) {
    case SQLITE_FCNTL_PRAGMA: {
      const int result = database_pragma(self, static_cast<char**>(argument));
      if (result != SQLITE_NOTFOUND) return result;
      break;
    }
    case SQLITE_FCNTL_VFSNAME: {
      const int result = file_control(file, operation, argument);
      char** name = static_cast<char**>(argument);
      *name = result == SQLITE_OK
                  ? api.mprintf("%s/%z", self.shim->vfs.zName, *name)
                  : api.mprintf("%s/%s", self.shim->vfs.zName, self.shim->host.base->zName);
      return *name ? SQLITE_OK : SQLITE_NOMEM;
    }
    case kFcntlOpenDatabase:
      *static_cast<const OpenDatabase**>(argument) = &self.database;
      return SQLITE_OK;
    case SQLITE_FCNTL_PDB:
      remember_connection(self, static_cast<sqlite3**>(argument));
      break;
    case SQLITE_FCNTL_CKPT_START:
      if (connection) connection->checkpoint_starting();
      break;
    case SQLITE_FCNTL_COMMIT_PHASETWO: {
      const int result = file_control(file, operation, argument);
      if (connection) connection->commit_phase_two();
      if (self.wait && self.wait->active())
        self.wait->committed(self.lock_level == SQLITE_LOCK_EXCLUSIVE);
      log_relay::deliver(api);
      return result;
    }
    default:
      break;
  }
  return file_control(file, operation, argument);
}

// These are installed for replicated databases only.

int database_write(sqlite3_file* file, const void* from, int amount, sqlite3_int64 offset) {
  connection_of(file).database_writing(offset, amount);
  const int result = file_write(file, from, amount, offset);
  connection_of(file).database_written();
  return result;
}

int database_truncate(sqlite3_file* file, sqlite3_int64 size) {
  connection_of(file).database_truncating(size);
  const int result = file_truncate(file, size);
  connection_of(file).database_written();
  return result;
}

int database_lock(sqlite3_file* file, int level) {
  const DatabaseFile& self = database_of(file);
  Connection& connection = connection_of(file);
  // WAL mode, for which the replicas perhaps wait, is turned on by such a write, too.
  if (level == SQLITE_LOCK_RESERVED && connection.sync_limit().count() > 0 &&
      connection.refuses_writes() && !turns_wal_on(self)) {
    say_refused(*self.shim->host.api);
    return SQLITE_IOERR_FSYNC;
  }
  const int result = [&] {
    if (self.lock_level != SQLITE_LOCK_NONE && level < SQLITE_LOCK_EXCLUSIVE) {
      return file_lock(file, level);
    }
    const auto held = hold_off_source_files();
    return file_lock(file, level);
  }();
  if (result == SQLITE_OK) {
    database_of(file).lock_level = level;
    connection_of(file).locked(level);
  }
  return result;
}

int database_unlock(sqlite3_file* file, int level) {
  connection_of(file).unlocking(level);
  const int result = file_unlock(file, level);
  DatabaseFile& self = database_of(file);
  self.lock_level = level;
  connection_of(file).unlocked(level);
  if (level == SQLITE_LOCK_NONE && self.wait->active()) self.wait->unlocked();
  return result;
}

int database_shm_map(sqlite3_file* file, int region, int size, int extend,
                     void volatile** pointer) {
  const int result = file_shm_map(file, region, size, extend, pointer);
  // A wal-index that can only be read is mapped, with SQLITE_READONLY as the result.
  const bool mapped = result == SQLITE_OK || (result & 0xff) == SQLITE_READONLY;
  if (mapped && *pointer) connection_of(file).region_mapped(region, *pointer);
  return result;
}

int database_shm_lock(sqlite3_file* file, int offset, int n, int flags) {
  const bool exclusive = (flags & SQLITE_SHM_EXCLUSIVE) != 0;
  const bool commit = exclusive && offset == kWriteLock && n == 1;
  const bool checkpoint = exclusive && offset == kCheckpointLock && n == 1;
  const bool recovery = exclusive && offset <= kRecoverLock && offset + n > kRecoverLock;
  const bool reset = exclusive && offset == kFirstReadLock && n == kAllReadLocks;
  const bool unlock = (flags & SQLITE_SHM_UNLOCK) != 0;
  CommitWait& wait = *database_of(file).wait;

  if (commit && unlock && wait.active()) wait.write_lock_releasing();
  if (checkpoint && unlock) connection_of(file).checkpoint_lock_releasing();
  const int result = file_shm_lock(file, offset, n, flags);
  if (commit && unlock) {
    connection_of(file).write_lock_released();
  } else if (result == SQLITE_OK && !unlock) {
    if (commit) connection_of(file).write_lock_obtained();
    if (commit && wait.active()) wait.write_lock_obtained();
    if (reset) connection_of(file).reset_lock_obtained();
    if (recovery) connection_of(file).recovery_lock_obtained();
    if (checkpoint) connection_of(file).checkpoint_lock_obtained();
  } else if (unlock && !exclusive && wait.active()) {
    wait.read_mark_released();
    log_relay::deliver(*database_of(file).shim->host.api);
  }
  return result;
}

int database_shm_unmap(sqlite3_file* file, int delete_flag) {
  connection_of(file).unmapping(delete_flag != 0);
  return file_shm_unmap(file, delete_flag);
}

sqlite3_io_methods database_methods(const sqlite3_io_methods& base, bool replicated) {
  sqlite3_io_methods methods = forwarding_methods(base);
  methods.xClose = database_close;
  methods.xFileControl = database_file_control;
  if (!replicated) return methods;
  methods.xWrite = database_write;
  methods.xTruncate = database_truncate;
  methods.xLock = database_lock;
  methods.xUnlock = database_unlock;
  if (methods.xShmMap) methods.xShmMap = database_shm_map;
  if (methods.xShmLock) methods.xShmLock = database_shm_lock;
  if (methods.xShmUnmap) methods.xShmUnmap = database_shm_unmap;
  return methods;
}

// ---------------------------------------------------------------------------------------------
// The -wal file of a replicated database

int wal_close(sqlite3_file* file) {
  sqlite3_file* base = base_of(file);
  return base->pMethods->xClose(base);
}

/// The header of a frame that is the last of its transaction (SQLite's fileformat2, 4.1: the size
/// of the database after the commit, else zero).
bool ends_transaction(const void* from, int amount, sqlite3_int64 offset) {
  constexpr int kWalHeaderSize = 32;
  constexpr int kFrameHeaderSize = 24;
  constexpr std::size_t kSizeOffset = 4;
  std::uint32_t size = 0;
  if (offset < kWalHeaderSize || amount != kFrameHeaderSize) return false;
  std::memcpy(&size, static_cast<const char*>(from) + kSizeOffset, sizeof size);
  return size != 0;
}

int wal_write(sqlite3_file* file, const void* from, int amount, sqlite3_int64 offset) {
  const WalFile& self = *static_cast<WalFile*>(file);
  if (self.database.wait->refuses(ends_transaction(from, amount, offset))) {
    say_refused(*self.shim->host.api);
    return SQLITE_IOERR_FSYNC;
  }
  if (offset == 0) self.database.connection->wal_beginning(from, amount);
  return file_write(file, from, amount, offset);
}

int wal_truncate(sqlite3_file* file, sqlite3_int64 size) {
  // To another size (PRAGMA journal_size_limit) only what lies behind the newest commit is cut.
  if (size == 0) static_cast<WalFile*>(file)->database.connection->wal_emptying();
  return file_truncate(file, size);
}

sqlite3_io_methods wal_methods(const sqlite3_io_methods& base) {
  sqlite3_io_methods methods = forwarding_methods(base);
  methods.xClose = wal_close;
  methods.xWrite = wal_write;
  methods.xTruncate = wal_truncate;
  return methods;
}

// ---------------------------------------------------------------------------------------------
// Opening

/// SQLSTREAM_RUN_MARK names a file whose existence tells `sqlstream run` that a database was
/// opened through the VFS.
void leave_run_mark() noexcept {
  static std::atomic_flag left;
  if (left.test_and_set()) return;
  const char* mark = std::getenv("SQLSTREAM_RUN_MARK");
  if (!mark || !*mark) return;
  const int fd = ::open(mark, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
  if (fd >= 0) ::close(fd);
}

void start_engine_once() {
  static std::once_flag started;
  std::call_once(started, [] {
    start_engine();
    // Only now that there is something to flush: loading alone leaves no trace in the process.
    std::atexit([] { flush_at_exit(); });
  });
}

// Never destroyed: a program that ends may still open databases.
SettingsSource& settings_source() {
  static auto* const source =
      new SettingsSource([](const std::string& path, const std::string& replica) {
        return config::settings_for(path, replica, config::process_environment());
      });
  return *source;
}

/// How a main database is to be opened.
struct Plan {
  std::string path;
  std::optional<DatabaseSettings> settings;  ///< without replicas: only to be restored
  std::string unreplicated_reason;
  bool faulty = false;             ///< there are settings, but they are wrong
  bool unknown = false;            ///< what the configuration says cannot be known
  bool restore_wanted = false;     ///< by the URI
  const char* demanded = nullptr;  ///< that it is replicated, by this; else it is opened as ever

  bool replicated() const { return settings && !settings->replicas.empty(); }
};

bool restore_forbidden(const char* when) {
  return when && std::string_view(when) == "never";
}

/// The URI parameters restore=if-missing|never and restore-from=URL; the latter alone means the
/// former.
void read_restore_parameters(const sqlite3_api_routines& api, const char* name, Plan& plan) {
  const char* when = api.uri_parameter(name, "restore");
  const char* from = api.uri_parameter(name, "restore-from");
  if (!when && !from) return;
  if (when && std::string_view(when) != "if-missing" && !restore_forbidden(when)) {
    throw Error(std::string("the URI parameter restore must be if-missing or never, not \"") +
                when + '"');
  }
  if (!plan.settings) plan.settings.emplace().path = plan.path;
  plan.settings->restore_if_missing = plan.restore_wanted;
  if (from) {
    plan.settings->restore_from = config::parse_replica_url(
        config::expand_replica_url(from, plan.path), config::process_environment());
  }
}

constexpr std::array kSyncParameters = {"sync", "sync-replicas", "sync-policy"};

/// These URI parameters, over what the configuration says.
void read_sync_parameters(const sqlite3_api_routines& api, const char* name, Plan& plan) {
  if (!plan.settings) return;
  for (const char* key : kSyncParameters) {
    const char* value = api.uri_parameter(name, key);
    if (value != nullptr) config::set_sync_option(*plan.settings, key, value);
  }
}

/// Of a URI parameter that asks for more than a plain open: a typo must not mean less. Throws
/// Error.
void check_demands(const sqlite3_api_routines& api, const char* name) {
  const char* strict = api.uri_parameter(name, "strict");
  if (strict != nullptr && !config::parse_bool(strict)) {
    throw Error(std::string("the URI parameter strict must be 1 or 0, not \"") + strict + '"');
  }
  DatabaseSettings any;
  for (const char* key : kSyncParameters) {
    const char* value = api.uri_parameter(name, key);
    if (value != nullptr) config::set_sync_option(any, key, value);
  }
}

/// What has a connection fail rather than be opened without replication; null: nothing.
const char* demand_of(const sqlite3_api_routines& api, const char* name, int flags,
                      const Plan& plan) {
  const char* strict = api.uri_parameter(name, "strict");
  if (strict != nullptr && config::parse_bool(strict) == true) return "with strict=1";
  const bool known = plan.settings.has_value();
  const char* policy = api.uri_parameter(name, "sync-policy");
  const bool fails =
      known ? plan.settings->sync_terms.fail && plan.settings->sync.count() > 0
            : policy && std::string_view(policy) == "fail" && api.uri_parameter(name, "sync");
  return fails && (flags & SQLITE_OPEN_READONLY) == 0 ? "with sync-policy: fail" : nullptr;
}

/// What is missing is restored if that is wanted. False, and said in the log: it must not be
/// created.
bool restored(const sqlite3_api_routines& api, const Plan& plan) {
  try {
    const bool missing = ::access(plan.path.c_str(), F_OK) != 0;
    if (missing && plan.faulty && (plan.restore_wanted || plan.unknown)) {
      throw Error(plan.unreplicated_reason);
    }
    if (!missing || !plan.settings || !plan.settings->restore_if_missing) return true;
    start_engine_once();
    restore_if_missing(*plan.settings);
    return true;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    log::error(std::string("cannot restore the database, so it is not created: ") + e.what(),
               {{"db", plan.path}});
    log_relay::deliver(api);
    return false;
  }
}

Plan plan_for(const sqlite3_api_routines& api, const char* name) {
  Plan plan;
  plan.path = name;
  const char* restore = api.uri_parameter(name, "restore");
  plan.restore_wanted =
      (restore || api.uri_parameter(name, "restore-from")) && !restore_forbidden(restore);
  try {
    plan.path = config::canonical_path(name);
    const char* replica = api.uri_parameter(name, "replica");
    plan.settings = settings_source()(plan.path, replica ? replica : "");
    read_restore_parameters(api, name, plan);
    read_sync_parameters(api, name, plan);
    if (!plan.replicated()) {
      plan.unreplicated_reason =
          "no replica is configured for it (with the URI parameter replica=, in a configuration "
          "file, or with SQLSTREAM_REPLICA_URL)";
    }
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    plan.faulty = true;
    plan.unknown =
        !restore_forbidden(restore) && dynamic_cast<const config::NamedConfigError*>(&e) != nullptr;
    plan.settings.reset();
    plan.unreplicated_reason = e.what();
  }
  return plan;
}

void warn_unreplicated(const sqlite3_api_routines& api, const Plan& plan) {
  static std::atomic_flag warned;
  if (!plan.faulty && warned.test_and_set()) return;
  log::warn(plan.path + " is not replicated: " + plan.unreplicated_reason);
  log_relay::deliver(api);
}

int refuse_open(const sqlite3_api_routines& api, const Plan& plan) {
  log::error("cannot open " + plan.path + ' ' + plan.demanded + ": " + plan.unreplicated_reason);
  log_relay::deliver(api);
  return SQLITE_CANTOPEN;
}

int open_database(Shim& shim, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  const sqlite3_api_routines& api = *shim.host.api;
  leave_run_mark();
  try {
    check_demands(api, name);
  } catch (const Error& error) {
    log::error(std::string("cannot open ") + name + ": " + error.what());
    log_relay::deliver(api);
    return SQLITE_CANTOPEN;
  }

  Plan plan = plan_for(api, name);
  plan.demanded = demand_of(api, name, flags, plan);
  if (!plan.replicated()) {
    if (plan.demanded) return refuse_open(api, plan);
    warn_unreplicated(api, plan);
  }

  if ((flags & SQLITE_OPEN_CREATE) != 0 && !restored(api, plan)) return SQLITE_CANTOPEN;

  sqlite3_file* base = base_of(file);
  std::memset(base, 0, static_cast<std::size_t>(shim.host.base->szOsFile));
  int opened_flags = flags;
  const int result = shim.host.base->xOpen(shim.host.base, name, base, flags, &opened_flags);
  if (out_flags) *out_flags = opened_flags;
  if (result != SQLITE_OK) {
    if (base->pMethods) base->pMethods->xClose(base);
    return result;
  }

  std::unique_ptr<Connection> connection;
  std::unique_ptr<CommitWait> wait;
  const bool wanted = plan.faulty || plan.replicated();
  const auto sync = plan.replicated() ? plan.settings->sync : std::chrono::milliseconds(0);
  try {
    if (plan.replicated()) {
      start_engine_once();
      // SQLite does not say it in the flags, and a file that cannot change is not to be changed.
      if (api.uri_boolean(name, "immutable", 0)) opened_flags |= SQLITE_OPEN_READONLY;
      connection = Connection::open(shim.host, std::move(*plan.settings), base, name, opened_flags,
                                    plan.demanded != nullptr, plan.unreplicated_reason);
      if (!connection && (opened_flags & SQLITE_OPEN_READONLY) == 0 && plan.demanded) {
        base->pMethods->xClose(base);
        return refuse_open(api, plan);
      }
    }
    if (connection) {
      // SQLite does not pass SQLITE_OPEN_SHAREDCACHE on.
      const char* cache = api.uri_parameter(name, "cache");
      const bool shared = cache != nullptr && std::string_view(cache) == "shared";
      wait = std::make_unique<CommitWait>(api, *connection, sync, shared);
      const std::lock_guard lock(shim.mutex);
      shim.databases.insert_or_assign(name, ReplicatedDatabase{connection.get(), wait.get()});
    }
  } catch (...) {
    wait.reset();
    connection.reset();
    base->pMethods->xClose(base);
    throw;
  }
  const bool replicated = connection != nullptr;
  const bool failed = wanted && !replicated && (opened_flags & SQLITE_OPEN_READONLY) == 0;
  auto* self = new (file) DatabaseFile{
      {{nullptr}, database_methods(*base->pMethods, replicated), &shim},
      name,
      {std::move(plan.path), std::move(connection), std::move(plan.unreplicated_reason), failed},
      std::move(wait)};
  self->pMethods = &self->methods;
  log_relay::deliver(api);
  return SQLITE_OK;
}

std::optional<ReplicatedDatabase> database_of_wal(Shim& shim, const char* wal_name) {
  const std::lock_guard lock(shim.mutex);
  if (shim.databases.empty()) return std::nullopt;
  const auto found = shim.databases.find(shim.host.api->filename_database(wal_name));
  if (found == shim.databases.end()) return std::nullopt;
  return found->second;
}

int open_wal(Shim& shim, const ReplicatedDatabase& database, const char* name, sqlite3_file* file,
             int flags, int* out_flags) {
  sqlite3_file* base = base_of(file);
  std::memset(base, 0, static_cast<std::size_t>(shim.host.base->szOsFile));
  const int result = shim.host.base->xOpen(shim.host.base, name, base, flags, out_flags);
  if (result != SQLITE_OK) {
    if (base->pMethods) base->pMethods->xClose(base);
    return result;
  }
  auto* self = new (file) WalFile{{{nullptr}, wal_methods(*base->pMethods), &shim}, database};
  self->pMethods = &self->methods;
  return SQLITE_OK;
}

int vfs_open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  Shim& shim = shim_of(vfs);
  // SQLite calls xClose of a file that failed to open unless this is null.
  file->pMethods = nullptr;
  try {
    if (name && (flags & SQLITE_OPEN_MAIN_DB) && !(flags & SQLITE_OPEN_MEMORY)) {
      return open_database(shim, name, file, flags, out_flags);
    }
    if (name && (flags & SQLITE_OPEN_WAL)) {
      const auto database = database_of_wal(shim, name);
      if (database) return open_wal(shim, *database, name, file, flags, out_flags);
    }
  } catch (const std::bad_alloc&) {
    return SQLITE_NOMEM;
  } catch (...) {
    return SQLITE_CANTOPEN;
  }
  return shim.host.base->xOpen(shim.host.base, name, file, flags, out_flags);
}

// ---------------------------------------------------------------------------------------------
// The other VFS methods

// By name: not every caller's string is one that sqlite3_filename_database() may be asked about.
void tell_wal_deleting(Shim& shim, std::string_view wal_name) {
  const std::string_view database = wal_name.substr(0, wal_name.size() - kWalSuffix.size());
  const std::lock_guard lock(shim.mutex);
  for (const auto& [name, replicated] : shim.databases) {
    if (database == name) replicated.connection->wal_deleting();
  }
}

int vfs_delete(sqlite3_vfs* vfs, const char* name, int sync_dir) {
  if (name && std::string_view(name).ends_with(kWalSuffix)) tell_wal_deleting(shim_of(vfs), name);
  return base_vfs(vfs)->xDelete(base_vfs(vfs), name, sync_dir);
}

int vfs_access(sqlite3_vfs* vfs, const char* name, int flags, int* result) {
  return base_vfs(vfs)->xAccess(base_vfs(vfs), name, flags, result);
}

int vfs_full_pathname(sqlite3_vfs* vfs, const char* name, int size, char* full) {
  return base_vfs(vfs)->xFullPathname(base_vfs(vfs), name, size, full);
}

void* vfs_dl_open(sqlite3_vfs* vfs, const char* name) {
  return base_vfs(vfs)->xDlOpen(base_vfs(vfs), name);
}

void vfs_dl_error(sqlite3_vfs* vfs, int size, char* message) {
  base_vfs(vfs)->xDlError(base_vfs(vfs), size, message);
}

void (*vfs_dl_sym(sqlite3_vfs* vfs, void* handle, const char* symbol))(void) {
  return base_vfs(vfs)->xDlSym(base_vfs(vfs), handle, symbol);
}

void vfs_dl_close(sqlite3_vfs* vfs, void* handle) {
  base_vfs(vfs)->xDlClose(base_vfs(vfs), handle);
}

int vfs_randomness(sqlite3_vfs* vfs, int size, char* bytes) {
  return base_vfs(vfs)->xRandomness(base_vfs(vfs), size, bytes);
}

int vfs_sleep(sqlite3_vfs* vfs, int microseconds) {
  return base_vfs(vfs)->xSleep(base_vfs(vfs), microseconds);
}

int vfs_current_time(sqlite3_vfs* vfs, double* now) {
  return base_vfs(vfs)->xCurrentTime(base_vfs(vfs), now);
}

int vfs_get_last_error(sqlite3_vfs* vfs, int size, char* message) {
  return base_vfs(vfs)->xGetLastError(base_vfs(vfs), size, message);
}

int vfs_current_time_int64(sqlite3_vfs* vfs, sqlite3_int64* now) {
  return base_vfs(vfs)->xCurrentTimeInt64(base_vfs(vfs), now);
}

int vfs_set_system_call(sqlite3_vfs* vfs, const char* name, sqlite3_syscall_ptr call) {
  return base_vfs(vfs)->xSetSystemCall(base_vfs(vfs), name, call);
}

sqlite3_syscall_ptr vfs_get_system_call(sqlite3_vfs* vfs, const char* name) {
  return base_vfs(vfs)->xGetSystemCall(base_vfs(vfs), name);
}

const char* vfs_next_system_call(sqlite3_vfs* vfs, const char* name) {
  return base_vfs(vfs)->xNextSystemCall(base_vfs(vfs), name);
}

}  // namespace

void make_vfs(Shim& shim) {
  const sqlite3_vfs& base = *shim.host.base;
  sqlite3_vfs& vfs = shim.vfs;
  vfs = {};
  vfs.iVersion = std::min(base.iVersion, 3);
  vfs.szOsFile = static_cast<int>(kHeaderSize) + base.szOsFile;
  vfs.mxPathname = base.mxPathname;
  vfs.zName = "sqlstream";
  vfs.pAppData = &shim;
  vfs.xOpen = vfs_open;
  vfs.xDelete = vfs_delete;
  vfs.xAccess = vfs_access;
  vfs.xFullPathname = vfs_full_pathname;
  vfs.xDlOpen = base.xDlOpen ? vfs_dl_open : nullptr;
  vfs.xDlError = base.xDlError ? vfs_dl_error : nullptr;
  vfs.xDlSym = base.xDlSym ? vfs_dl_sym : nullptr;
  vfs.xDlClose = base.xDlClose ? vfs_dl_close : nullptr;
  vfs.xRandomness = base.xRandomness ? vfs_randomness : nullptr;
  vfs.xSleep = base.xSleep ? vfs_sleep : nullptr;
  vfs.xCurrentTime = base.xCurrentTime ? vfs_current_time : nullptr;
  vfs.xGetLastError = base.xGetLastError ? vfs_get_last_error : nullptr;
  if (base.iVersion >= 2) {
    vfs.xCurrentTimeInt64 = base.xCurrentTimeInt64 ? vfs_current_time_int64 : nullptr;
  }
  if (base.iVersion >= 3) {
    vfs.xSetSystemCall = base.xSetSystemCall ? vfs_set_system_call : nullptr;
    vfs.xGetSystemCall = base.xGetSystemCall ? vfs_get_system_call : nullptr;
    vfs.xNextSystemCall = base.xNextSystemCall ? vfs_next_system_call : nullptr;
  }
}

void use_settings(SettingsSource source) {
  settings_source() = std::move(source);
}

std::string OpenDatabase::status_json(bool seen) const {
  if (connection) return connection->status_json(seen);
  return JsonObject()
      .add("db", path)
      .add("state", "not replicated")
      .add("reason", unreplicated_reason)
      .text();
}

OpenDatabase* find_open_database(const sqlite3_api_routines& api, sqlite3* db, const char* schema) {
  OpenDatabase* found = nullptr;
  return api.file_control(db, schema, kFcntlOpenDatabase, &found) == SQLITE_OK ? found : nullptr;
}

}  // namespace sqlstream
