#pragma once

#include <string>
#include <vector>

#include <sqlite3ext.h>

#include "vfs/shim.h"

namespace sqlstream {

/// The schemas of a connection: "main", "temp" where it is used, and what is attached. To be called
/// on a thread that may use `db`, as is what follows. Throws std::bad_alloc.
std::vector<std::string> schemas_of(const sqlite3_api_routines& api, sqlite3* db);

/// Has SQLite read that database once, where the connection has not: it has no wal-index before,
/// and nothing else tells what other programs committed to the WAL. Not inside a transaction, which
/// would have its snapshot from then on, nor where the locks would be kept. May wait as any
/// statement that reads. False when SQLite could not: nothing is known then.
bool read_once(const sqlite3_api_routines& api, sqlite3* db, const std::string& schema,
               const OpenDatabase& database);

/// … of whatever schema that database is.
bool read_once(const sqlite3_api_routines& api, sqlite3* db, const OpenDatabase& database);

}  // namespace sqlstream
