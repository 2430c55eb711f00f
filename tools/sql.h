#pragma once

#include <memory>
#include <string>
#include <vector>

#include <sqlite3.h>

namespace sqlstream::tools {

/// Puts the VFS "sqlstream" and its SQL functions into the SQLite library this program is linked
/// with. Once, before the first connection through it; takes the log over. Throws Error.
void register_vfs();

/// A connection of this program's own SQLite. Not thread-safe.
class SqlConnection {
 public:
  /// `name`: a path, or with SQLITE_OPEN_URI in `flags` a URI; `vfs` null: the default one. Waits
  /// when others are busy. Throws Error.
  SqlConnection(const std::string& name, int flags, const char* vfs = nullptr);

  /// Runs one statement with texts for its parameters; the values of the rows, NULL as an empty
  /// text. Throws Error.
  using Rows = std::vector<std::vector<std::string>>;
  Rows run(const std::string& sql, const std::vector<std::string>& parameters = {});
  /// The first value of the first row; empty when there is none.
  std::string value(const std::string& sql, const std::vector<std::string>& parameters = {});

  sqlite3* get() const { return db_.get(); }

 private:
  [[noreturn]] void fail() const;
  std::string name_;
  std::unique_ptr<sqlite3, int (*)(sqlite3*)> db_;
};

/// Opens a database that exists through the VFS, and its wal-index with it. After register_vfs().
/// When it is closed last, the WAL stays for the application to checkpoint. Throws Error.
SqlConnection open_replicated(const std::string& path);

}  // namespace sqlstream::tools
