#include "tools/sql.h"

#include <cerrno>
#include <mutex>
#include <unistd.h>

#include <sqlite3ext.h>

#include "base/error.h"
#include "vfs/registration.h"

namespace sqlstream::tools {
namespace {

constexpr int kBusyTimeout = 10'000;

std::string registration_error;

// SQLite hands its API table to automatic extensions only.
int on_table(sqlite3* db, char**, const sqlite3_api_routines* api) {
  return register_library(*api, db, registration_error);
}

}  // namespace

void register_vfs() {
  static std::once_flag once;
  std::call_once(once, [] {
    const auto extension = reinterpret_cast<void (*)()>(on_table);
    sqlite3_auto_extension(extension);
    const SqlConnection first(":memory:", SQLITE_OPEN_READWRITE);
    sqlite3_cancel_auto_extension(extension);
    if (!registration_error.empty()) throw Error(registration_error);
  });
}

SqlConnection::SqlConnection(const std::string& name, int flags, const char* vfs)
    : name_(name), db_(nullptr, sqlite3_close) {
  sqlite3* db = nullptr;
  const int result = sqlite3_open_v2(name.c_str(), &db, flags, vfs);
  db_.reset(db);
  if (result != SQLITE_OK) fail();
  sqlite3_busy_timeout(db, kBusyTimeout);
}

SqlConnection::Rows SqlConnection::run(const std::string& sql,
                                       const std::vector<std::string>& parameters) {
  sqlite3_stmt* raw = nullptr;
  if (sqlite3_prepare_v2(get(), sql.c_str(), -1, &raw, nullptr) != SQLITE_OK) fail();
  const std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)> statement(raw, sqlite3_finalize);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::string& text = parameters[i];
    sqlite3_bind_text(raw, static_cast<int>(i + 1), text.data(), static_cast<int>(text.size()),
                      SQLITE_STATIC);
  }
  Rows rows;
  int result = sqlite3_step(raw);
  for (; result == SQLITE_ROW; result = sqlite3_step(raw)) {
    auto& row = rows.emplace_back();
    for (int i = 0; i < sqlite3_column_count(raw); ++i) {
      const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(raw, i));
      row.emplace_back(text != nullptr ? text : "");
    }
  }
  if (result != SQLITE_DONE) fail();
  return rows;
}

std::string SqlConnection::value(const std::string& sql,
                                 const std::vector<std::string>& parameters) {
  const Rows rows = run(sql, parameters);
  return rows.empty() || rows.front().empty() ? "" : rows.front().front();
}

void SqlConnection::fail() const {
  throw Error("database " + name_ + ": " +
              (db_ ? sqlite3_errmsg(db_.get()) : "SQLite is out of memory"));
}

SqlConnection open_replicated(const std::string& path) {
  if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT) {
    throw Error("there is no database " + path);
  }
  SqlConnection db(path, SQLITE_OPEN_READWRITE, "sqlstream");
  sqlite3_db_config(db.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  db.run("SELECT count(*) FROM sqlite_schema");
  return db;
}

}  // namespace sqlstream::tools
