#pragma once

#include <cstddef>

#include <sqlite3.h>
#include <sqlite3ext.h>

namespace sqlstream {

/// How many SQLite libraries one process may hold. A function called by SQLite cannot ask which
/// library calls it without already knowing that library, so each has functions of its own.
inline constexpr std::size_t kMaxLibraries = 8;

/// Adds to `db` the SQL functions
/// - sqlstream_version(): the version, as text;
/// - sqlstream_status([schema]): the state of a database ('main' if not named) as JSON; NULL if it
///   is not a file opened through the VFS;
/// - sqlstream_wait(ms): waits until everything committed is in the replicas, for all databases of
///   the connection: 1, or 0 when the time ran out or replication is paused. NULL when no database
///   of the connection is replicated.
/// `library` < kMaxLibraries numbers the library that `db` and `api` belong to; `api` must stay
/// valid as long as the process. Returns an SQLite result code.
int register_functions(std::size_t library, const sqlite3_api_routines& api, sqlite3* db) noexcept;

}  // namespace sqlstream
