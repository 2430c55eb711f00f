#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <sqlite3.h>

#include "shipper/connection.h"

namespace sqlstream {

/// A connection of this program's own to a database that others write, opened through the VFS. It
/// never writes, never checkpoints unless told to, and leaves the WAL alone when it is closed.
/// Used by one thread at a time.
class Handle {
 public:
  /// Throws Error when it cannot be opened, or not through the VFS with a replica.
  explicit Handle(const std::string& path);

  /// True in WAL mode; false also while others keep it from being looked at.
  bool is_wal();
  /// Opens a read transaction, which holds SQLite's read lock until end(). False when it cannot be.
  bool begin_read();
  /// SQLite's result of the last begin_read().
  int read_result() const { return read_result_; }
  /// Opens a read transaction with the write lock, waiting up to `patience` for it.
  bool begin_write(std::chrono::nanoseconds patience);
  /// Ends the transaction, if there is one.
  void end();
  /// A PASSIVE checkpoint, as far as readers let it go. Precondition: no transaction.
  void checkpoint();
  /// SQLite's last message.
  std::string error() const { return sqlite3_errmsg(db_.get()); }

  /// Valid as long as this is.
  Connection& connection() { return *connection_; }

 private:
  bool run(const char* sql);
  static int wait_while_busy(void* self, int count);

  std::unique_ptr<sqlite3, int (*)(sqlite3*)> db_;
  Connection* connection_ = nullptr;
  int read_result_ = SQLITE_OK;
  std::chrono::steady_clock::time_point patient_until_{};
};

}  // namespace sqlstream
