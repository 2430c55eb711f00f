#include "vfs/schemas.h"

#include <memory>

namespace sqlstream {
namespace {

using Statement = std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)>;

Statement prepare(const sqlite3_api_routines& api, sqlite3* db, const char* sql) {
  sqlite3_stmt* statement = nullptr;
  api.prepare_v2(db, sql, -1, &statement, nullptr);
  return {statement, api.finalize};
}

bool is_to_be_read(const sqlite3_api_routines& api, sqlite3* db, const OpenDatabase& database) {
  return database.connection && database.connection->wal_index() == nullptr &&
         !database.connection->keeps_locks() && api.get_autocommit(db) != 0;
}

}  // namespace

std::vector<std::string> schemas_of(const sqlite3_api_routines& api, sqlite3* db) {
  const Statement statement = prepare(api, db, "PRAGMA database_list");
  std::vector<std::string> schemas;
  while (statement && api.step(statement.get()) == SQLITE_ROW) {
    const auto* name = reinterpret_cast<const char*>(api.column_text(statement.get(), 1));
    if (name != nullptr) schemas.emplace_back(name);  // else there was no memory to convert it
  }
  return schemas;
}

bool read_once(const sqlite3_api_routines& api, sqlite3* db, const std::string& schema,
               const OpenDatabase& database) {
  if (!is_to_be_read(api, db, database)) return true;
  const std::unique_ptr<char, void (*)(void*)> sql(
      api.mprintf("SELECT 1 FROM \"%w\".sqlite_master LIMIT 1", schema.c_str()), api.free);
  const Statement statement = sql ? prepare(api, db, sql.get()) : Statement(nullptr, api.finalize);
  if (!statement) return false;
  const int rc = api.step(statement.get());
  return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

bool read_once(const sqlite3_api_routines& api, sqlite3* db, const OpenDatabase& database) {
  if (!is_to_be_read(api, db, database)) return true;
  for (const std::string& schema : schemas_of(api, db)) {
    if (find_open_database(api, db, schema.c_str()) == &database) {
      return read_once(api, db, schema, database);
    }
  }
  return false;
}

}  // namespace sqlstream
