#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <sys/types.h>
#include <vector>

#include "test/sanitized.h"
#include "test/unit/vfs/support.h"

namespace sqlstream::testing {

/// A database in a folder of its own, replicated to the folder beside it.
class Replicated {
 public:
  Replicated() = default;
  std::string path() const { return folder_.file("app.db"); }
  std::string replica() const { return folder_.file(replica_); }
  /// From now on: another folder.
  void set_replica(const std::string& name) { replica_ = name; }
  std::string file(const std::string& name) const { return folder_.file(name); }
  std::string uri() const {
    return "file:" + path() + "?vfs=sqlstream&replica=file://" + replica() +
           "%3Fsync-interval%3D50ms";
  }

  /// Restores, and compares every page with what a plain reader of the database sees.
  void expect_restored() const;
  /// Restores whatever the replica holds now into a new file, and gives its path.
  std::string restore() const;

 private:
  TempFolder folder_;
  std::string replica_ = "replica";
};

/// A connection that waits when others are busy. Not for threads: it uses doctest's assertions.
class Writer : public Sqlite {
 public:
  explicit Writer(const std::string& uri);
  /// Waits until all is in the replica; fails the test when that takes minutes.
  void shipped();
};

/// Runs one statement batch on any thread; true when it went well or met a busy database.
bool works(sqlite3* db, const std::string& sql);
/// Eight threads commit to a table `t(i INTEGER PRIMARY KEY, x)` over connections of their own,
/// which wait for the replica, and one of them checkpoints. Meanwhile, and in the end,
/// `restored_rows()` must be as many as returned before it was asked.
void expect_returned_commits(const std::string& uri, const std::function<int()>& restored_rows);
/// A connection for any thread, null when it cannot be opened. Closed by sqlite3_close.
sqlite3* open_writer(const std::string& uri);

/// This program again, as `role`, with arguments. `out` gets its standard output's reading end.
pid_t start_role(const std::string& role, std::initializer_list<std::string> arguments,
                 int* out = nullptr);
/// The exit status; 128 + signal; -1 when it did not end within a minute (it is killed then).
int wait_for(pid_t pid);
/// One line of a role's output; empty when it ended or stayed silent for a minute.
std::string read_line(int fd);

/// Runs a role in this process; its result is the exit status.
int run_role(const std::string& role, const std::vector<std::string>& arguments);
/// The roles "memory" and "threads".
int run_without_memory(const std::vector<std::string>& arguments);
int run_without_threads(const std::vector<std::string>& arguments);

/// The seed of this run's random tests; SQLSTREAM_TEST_SEED repeats one. Printed once.
std::uint64_t test_seed();

}  // namespace sqlstream::testing
