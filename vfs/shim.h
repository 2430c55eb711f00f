#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "shipper/connection.h"
#include "vfs/commit_wait.h"

/// The VFS "sqlstream": every method of the VFS beneath it, forwarded, with the hooks of
/// Connection called around those that matter to replication.
///
/// - Journals, temporary and in-memory files are opened by the base VFS into SQLite's own handle:
///   the shim is not in their way at all.
/// - A main database is wrapped. Its method table has the base file's version and holds only what
///   the base file has, so SQLite sees the same abilities with and without the shim. Without a
///   replica each method is one indirect call more, nothing else.
/// - The -wal file of a replicated database is wrapped to see it restart.
namespace sqlstream {

/// Of a main database file that is open, until it is closed.
struct ReplicatedDatabase {
  Connection* connection;
  CommitWait* wait;
};

/// One SQLite library's copy of the VFS. Lives as long as the process, at a fixed address.
struct Shim {
  Host host;
  sqlite3_vfs vfs{};

  std::mutex mutex;
  /// Replicated databases that are open, by the pointer SQLite names them with: that is how the
  /// opening of a -wal file finds its database.
  std::map<const char*, ReplicatedDatabase> databases;

  ConnectionsWaits waits;
};

/// Fills `shim.vfs` for `shim.host`; registering it is the caller's.
void make_vfs(Shim& shim);

/// A main database that was opened through the shim, until its file is closed.
struct OpenDatabase {
  std::string path;
  std::unique_ptr<Connection> connection;  ///< null: not replicated, for this reason:
  std::string unreplicated_reason;
  bool failed = false;  ///< not replicated although it is written, and a replica was asked for

  /// The state as JSON. `seen`: see Connection::status_json().
  std::string status_json(bool seen) const;
};

/// Answered by the shim only: writes an OpenDatabase*. A file control (and not
/// SQLITE_FCNTL_FILE_POINTER) because it also gets through a VFS stacked on top of this one.
inline constexpr int kFcntlOpenDatabase = 0x73716c73;

/// Where a database's settings come from: `path` is canonical, `replica` the URI parameter (empty:
/// none). Empty: it is not replicated. Throws Error.
using SettingsSource = std::function<std::optional<DatabaseSettings>(const std::string& path,
                                                                     const std::string& replica)>;

/// Replaces config::settings_for(), for a program that knows its databases. To be called before
/// the first of them is opened.
void use_settings(SettingsSource source);

/// What `schema` of `db` was opened as; null if it is not a file opened through the shim of this
/// library. To be called on a thread that may use `db`; valid until that database is closed.
OpenDatabase* find_open_database(const sqlite3_api_routines& api, sqlite3* db, const char* schema);

}  // namespace sqlstream
