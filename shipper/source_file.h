#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>

#include "capture/capturer.h"
#include "shipper/connection.h"

namespace sqlstream {

/// While one lives, no SourceFile is opened or closed. For the application's threads, around
/// xLock(EXCLUSIVE): SQLite 3.51.0 and 3.51.1 take two of their mutexes there in one order, and
/// where a file of the same database is opened or closed in the other, and would wait for ever. And
/// around a file's first lock: SQLite (unixClose) keeps a descriptor while its process has locks on
/// the file, since closing it would drop them, but looks for that a moment before it closes it.
std::shared_lock<std::shared_mutex> hold_off_source_files();

/// The database file, read through a handle of the host's VFS: a plain descriptor would drop the
/// process's POSIX locks when closed. Takes no lock, maps no wal-index. Not thread-safe.
class SourceFile {
 public:
  /// Throws Error when it cannot be opened. `host` must outlive the object.
  SourceFile(const Host& host, const std::string& path);
  /// Through `file`, which the caller has open, and which must outlive the object.
  SourceFile(sqlite3_file* file, const std::string& path);
  ~SourceFile();
  SourceFile(const SourceFile&) = delete;
  SourceFile& operator=(const SourceFile&) = delete;

  std::uint64_t size() const;
  /// What lies beyond the end is zeros. Throws Error when it cannot be read.
  void read(std::uint64_t offset, std::span<std::uint8_t> out) const;

 private:
  const Host* host_ = nullptr;  // null: the file is another's
  std::string path_;
  std::unique_ptr<std::uint8_t[]> memory_;
  sqlite3_file* file_ = nullptr;
  const char* name_ = nullptr;
};

/// From the header and the size; empty for a file without a database in it.
std::optional<capture::DatabaseShape> read_shape(const SourceFile& file);

/// Whether SQLite leaves some bytes at the end of each page to others: a VFS above ours may keep
/// the page's checksum there (SQLite's cksumvfs does). Throws Error when the file cannot be read.
bool has_reserved_bytes(const SourceFile& file);

/// Turns WAL mode on over a brief connection of its own, which does not checkpoint, and waits up to
/// `patience` for others. SQLITE_OK, or why it is not on: SQLITE_BUSY, or what SQLite says.
int turn_wal_on(const Host& host, const std::string& path, std::chrono::milliseconds patience);

}  // namespace sqlstream
