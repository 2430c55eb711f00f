#pragma once

#include <string>

#include <sqlite3.h>
#include <sqlite3ext.h>

namespace sqlstream {

/// Registers the VFS "sqlstream" with the SQLite library that `api` belongs to, once per library,
/// over the library's default VFS of that moment (and as its default with SQLSTREAM_DEFAULT_VFS=1
/// in the environment), and the SQL functions on `db` and on every later connection.
///
/// The VFS cannot be taken away again: the caller must stay loaded, and the library does whoever
/// lets go of it. Thread-safe. Returns an SQLite result code; when it is not SQLITE_OK, `error`
/// says why.
int register_library(const sqlite3_api_routines& api, sqlite3* db, std::string& error);

}  // namespace sqlstream
