#include "support.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>

#include <doctest/doctest.h>

#include "vfs/registration.h"

namespace sqlstream::testing {
namespace {

std::mutex log_mutex;
std::vector<std::string> log_lines;

// SQLite calls it, to whom no exception may go: without memory there is a line less.
void on_log(void*, int, const char* message) noexcept {
  try {
    const std::lock_guard lock(log_mutex);
    log_lines.emplace_back(message);
  } catch (const std::bad_alloc&) {
  }
}

const sqlite3_api_routines* table = nullptr;

/// SQLite gives its API table to automatic extensions.
int on_table(sqlite3* db, char**, const sqlite3_api_routines* api) {
  table = api;
  std::string error;
  const int result = register_library(*api, db, error);
  if (result != SQLITE_OK) MESSAGE(error);
  return result;
}

}  // namespace

void register_shim() {
  static const int result = [] {
    for (const char* name : {"SQLSTREAM_REPLICA_URL", "SQLSTREAM_DEFAULT_VFS"}) ::unsetenv(name);
    // No file of the machine is to be read.
    ::setenv("SQLSTREAM_CONFIG", "/dev/null", 1);
    sqlite3_config(SQLITE_CONFIG_LOG, on_log, nullptr);
    sqlite3_config(SQLITE_CONFIG_URI, 1);
    sqlite3_auto_extension(reinterpret_cast<void (*)()>(on_table));
    const Sqlite first(":memory:", nullptr);
    sqlite3_cancel_auto_extension(reinterpret_cast<void (*)()>(on_table));
    return first.result();
  }();
  REQUIRE(result == SQLITE_OK);
}

const sqlite3_api_routines& api() {
  return *table;
}

TempFolder::TempFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "sqlstream-XXXXXX").string();
  if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp failed");
  path_ = std::filesystem::canonical(name).string();
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Sqlite::Sqlite(const std::string& uri, const char* vfs, int flags) : db_(nullptr, sqlite3_close) {
  sqlite3* db = nullptr;
  result_ = sqlite3_open_v2(uri.c_str(), &db, flags, vfs);
  db_.reset(db);
}

std::string Sqlite::run(const std::string& sql) {
  std::string rows;
  result_ = sqlite3_exec(
      db_.get(), sql.c_str(),
      [](void* to, int columns, char** values, char**) {
        auto& text = *static_cast<std::string*>(to);
        for (int i = 0; i < columns; ++i) {
          if (i > 0) text += '|';
          text += values[i] ? values[i] : "NULL";
        }
        text += '\n';
        return 0;
      },
      &rows, nullptr);
  return rows;
}

std::string Sqlite::must(const std::string& sql) {
  std::string rows = run(sql);
  INFO(sql);
  INFO(sqlite3_errmsg(db_.get()));
  REQUIRE(result_ == SQLITE_OK);
  return rows;
}

std::vector<std::string> take_log() {
  const std::lock_guard lock(log_mutex);
  return std::exchange(log_lines, {});
}

std::string replicated(const std::string& path, const std::string& more) {
  return "file:" + path + "?replica=file://" + path + "-replica" + more;
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace sqlstream::testing
