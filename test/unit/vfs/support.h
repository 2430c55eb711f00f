#pragma once

#include <memory>
#include <string>
#include <vector>

#include <sqlite3.h>
#include <sqlite3ext.h>

namespace sqlstream::testing {

/// Registers the shim with the SQLite library this test is linked with (once).
void register_shim();

/// That library's API table; after register_shim().
const sqlite3_api_routines& api();

/// A fresh folder, removed at the end.
class TempFolder {
 public:
  TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder();
  std::string file(const std::string& name) const { return path_ + '/' + name; }

 private:
  std::string path_;
};

/// A connection of SQLite.
class Sqlite {
 public:
  /// `uri`: a file name or URI; `vfs` null: the default one. A failure is in result().
  explicit Sqlite(const std::string& uri, const char* vfs = "sqlstream",
                  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);

  /// Runs statements; the rows' values, '|' between columns and '\n' after rows. The outcome is in
  /// result().
  std::string run(const std::string& sql);
  /// The same, and fails the test unless all went well.
  std::string must(const std::string& sql);

  int result() const { return result_; }
  int extended() const { return sqlite3_extended_errcode(db_.get()); }
  sqlite3* get() const { return db_.get(); }
  void close() { db_.reset(); }

 private:
  std::unique_ptr<sqlite3, int (*)(sqlite3*)> db_;
  int result_ = SQLITE_OK;
};

/// What SQLite logged since the last call, one line per message.
std::vector<std::string> take_log();

/// The URI of `path` with a replica beside it (that nobody writes to).
std::string replicated(const std::string& path, const std::string& more = "");

std::string read_file(const std::string& path);

}  // namespace sqlstream::testing
