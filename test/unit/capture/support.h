#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <sys/types.h>
#include <vector>

#include <sqlite3.h>

#include "base/bytes.h"
#include "base/unique_fd.h"
#include "capture/capturer.h"
#include "capture/outbox_log.h"

namespace sqlstream::testing {

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

/// A plain connection of SQLite's, which fails the test when something does not go well. Created in
/// WAL mode, without checkpoints of its own.
class Sqlite {
 public:
  explicit Sqlite(const std::string& path, std::uint32_t page_size = 4096);

  /// Runs statements; the first column of the last row.
  std::string run(const std::string& sql);
  void close() { db_.reset(); }

  /// The main file's bytes, read through the connection's own handle.
  Bytes file_bytes() const;
  /// The database as a reader sees it.
  Bytes content() const;
  /// What a capture needs, borrowed from this connection. Valid until it is closed; `wal` keeps the
  /// descriptor.
  capture::Source source(UniqueFd& wal) const;

 private:
  sqlite3_file* file() const;

  std::string path_;
  std::unique_ptr<sqlite3, int (*)(sqlite3*)> db_;
};

/// Bytes that differ from page to page.
Bytes image_of(std::uint32_t page, std::uint32_t page_size, std::uint32_t version = 0);

/// Runs `body` in a child process, which then waits to be killed. Returns when the child called
/// `ready`; fails the test when it never does.
class Child {
 public:
  explicit Child(const std::function<void(const std::function<void()>& ready)>& body);
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { kill(); }
  pid_t pid() const { return pid_; }
  /// SIGKILL, and waits for its end.
  void kill();

 private:
  pid_t pid_ = -1;
};

/// The seed of this run's random tests; SQLSTREAM_TEST_SEED repeats one. Printed once.
std::uint64_t test_seed();

}  // namespace sqlstream::testing
