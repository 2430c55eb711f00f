#include "replicate/handle.h"

#include <cstring>
#include <thread>

#include "base/error.h"
#include "vfs/shim.h"

namespace sqlstream {
namespace {

constexpr auto kBusyPause = std::chrono::microseconds(500);

Connection* connection_of(sqlite3* db) {
  OpenDatabase* open = nullptr;
  const int result = sqlite3_file_control(db, "main", kFcntlOpenDatabase, &open);
  return result == SQLITE_OK && open != nullptr ? open->connection.get() : nullptr;
}

}  // namespace

Handle::Handle(const std::string& path) : db_(nullptr, sqlite3_close) {
  sqlite3* db = nullptr;
  const int result =
      sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, "sqlstream");
  db_.reset(db);
  if (result != SQLITE_OK) {
    throw Error("cannot open " + path + ": " + (db != nullptr ? error() : "out of memory"));
  }
  connection_ = connection_of(db);
  if (connection_ == nullptr) {
    throw Error(
        path + " cannot be replicated: " +
        (sqlite3_db_readonly(db, "main") == 1 ? "this user may not write to it" : "see the log"));
  }
  sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  sqlite3_wal_autocheckpoint(db, 0);
  sqlite3_busy_handler(db, wait_while_busy, this);
}

int Handle::wait_while_busy(void* self, int) {
  if (std::chrono::steady_clock::now() >= static_cast<Handle*>(self)->patient_until_) return 0;
  std::this_thread::sleep_for(kBusyPause);
  return 1;
}

bool Handle::run(const char* sql) {
  return sqlite3_exec(db_.get(), sql, nullptr, nullptr, nullptr) == SQLITE_OK;
}

bool Handle::is_wal() {
  bool is_wal = false;
  const auto look = [](void* to, int, char** values, char**) {
    *static_cast<bool*>(to) = values[0] != nullptr && std::strcmp(values[0], "wal") == 0;
    return 0;
  };
  return sqlite3_exec(db_.get(), "PRAGMA journal_mode", look, &is_wal, nullptr) == SQLITE_OK &&
         is_wal;
}

bool Handle::begin_read() {
  // The pragma reads the header, and needs no schema: whatever is in there, it can be read.
  const bool begun = run("BEGIN") && run("PRAGMA user_version");
  read_result_ = begun ? SQLITE_OK : sqlite3_errcode(db_.get());
  if (!begun) end();
  return begun;
}

bool Handle::begin_write(std::chrono::nanoseconds patience) {
  patient_until_ = std::chrono::steady_clock::now() + patience;
  const bool begun = run("BEGIN IMMEDIATE");
  patient_until_ = {};
  if (!begun) end();
  return begun;
}

void Handle::end() {
  if (sqlite3_get_autocommit(db_.get()) == 0) run("ROLLBACK");
}

void Handle::checkpoint() {
  sqlite3_wal_checkpoint_v2(db_.get(), "main", SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
}

}  // namespace sqlstream
