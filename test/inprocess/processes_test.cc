// Processes that come, fork, end and are killed.

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>

#include "base/unique_fd.h"
#include "support.h"

using sqlstream::UniqueFd;
using namespace sqlstream::testing;

namespace {

/// What the roles open: errors are exceptions, as doctest does not run there.
class Program {
 public:
  explicit Program(const std::string& uri) {
    register_shim();
    db_ = open_writer(uri);
    if (db_ == nullptr) throw std::runtime_error("cannot open " + uri);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() { sqlite3_close(db_); }
  void run(const std::string& sql) {
    if (sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
      throw std::runtime_error(sql + ": " + sqlite3_errmsg(db_));
    }
  }
  /// Not closed: as a program that just ends.
  void forget() { db_ = nullptr; }

 private:
  sqlite3* db_ = nullptr;
};

int write_and_end(const std::string& uri, int rows, bool close) {
  Program program(uri);
  program.run("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(i INTEGER PRIMARY KEY, x)");
  for (int i = 0; i < rows; ++i) program.run("INSERT INTO t(x) VALUES (randomblob(500))");
  if (!close) program.forget();
  return 0;
}

// More than one file of the outbox holds.
int write_large(const std::string& uri) {
  Program program(uri);
  program.run("PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  for (int i = 0; i < 60; ++i) {
    program.run("INSERT OR REPLACE INTO t VALUES (1, randomblob(1000000))");
    program.run("SELECT sqlstream_wait(60000)");
  }
  return 0;
}

// Writes, forks in between, and the child writes over a connection of its own.
int write_and_fork(const std::string& uri) {
  Program program(uri);
  program.run("PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  std::vector<pid_t> children;
  for (int i = 0; i < 60; ++i) {
    program.run("INSERT INTO t(x) VALUES (randomblob(500))");
    if (i % 20 != 10) continue;
    const pid_t pid = ::fork();
    if (pid < 0) return 2;
    if (pid == 0) {
      program.forget();
      Program own(uri);
      for (int k = 0; k < 20; ++k) own.run("INSERT INTO t(x) VALUES (randomblob(500))");
      std::exit(0);  // flushes, as a program's end does
    }
    children.push_back(pid);
  }
  int result = 0;
  for (const pid_t pid : children) {
    if (wait_for(pid) != 0) result = 3;
  }
  return result;
}

// Ships; forks a child that never uses SQLite; says its pid, and writes until it is killed.
int hold_with_child(const std::string& uri) {
  Program program(uri);
  program.run("PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  program.run("SELECT sqlstream_wait(60000)");
  const pid_t child = ::fork();
  if (child == 0) {
    while (true) ::pause();
  }
  std::printf("%d\n", static_cast<int>(child));
  std::fflush(stdout);
  for (int i = 0; i < 100'000; ++i) program.run("INSERT INTO t(x) VALUES (randomblob(500))");
  return 0;
}

std::thread* waiting = nullptr;  // never destroyed: a child has no such thread
std::atomic<bool> ending{false};

// One thread waits for a store that is away. True once its row is visible.
bool start_waiting(const std::string& uri, const std::string& path) {
  register_shim();
  waiting = new std::thread([uri] {
    sqlite3* db = open_writer(uri);
    sqlite3_exec(db, "INSERT INTO t(x) VALUES ('waiting')", nullptr, nullptr, nullptr);
    if (!ending) std::_Exit(4);  // it did not wait
  });
  for (int i = 0; i < 6000; ++i) {
    if (Sqlite(path, "unix").run("SELECT count(*) FROM t WHERE x = 'waiting'") == "1\n")
      return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

int end_waiting(const std::string& uri, const std::string& path) {
  // Registered first, so called last: after the engine's end nobody waits.
  std::atexit([] { waiting->join(); });
  if (!start_waiting(uri, path)) std::_Exit(2);
  ending = true;
  return 0;
}

// The child commits over a connection of its own, which waits for a moment only, and ends.
int fork_waiting(const std::string& uri, const std::string& path) {
  if (!start_waiting(uri, path)) return 2;
  const pid_t pid = ::fork();
  if (pid == 0) {
    Program own(uri);
    own.run("PRAGMA sqlstream_sync=50; INSERT INTO t(x) VALUES ('child')");
    own.forget();
    std::exit(0);
  }
  const int result = wait_for(pid);
  if (result != 0) return 3;
  std::_Exit(0);
}

// No file may grow over 6 MB: the outbox meets that, the database does not.
int write_limited(const std::string& uri) {
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{6'000'000, 6'000'000};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  Program program(uri);
  program.run(
      "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=100; PRAGMA synchronous=OFF;"
      "CREATE TABLE t(i INTEGER PRIMARY KEY, x);"
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) "
      "INSERT INTO t SELECT i, randomblob(3500) FROM n");
  for (int i = 0; i < 60; ++i) program.run("UPDATE t SET x = randomblob(3500)");
  return 0;
}

}  // namespace

int sqlstream::testing::run_role(const std::string& role,
                                 const std::vector<std::string>& arguments) {
  try {
    const std::string& uri = arguments.at(0);
    if (role == "close") return write_and_end(uri, 50, true);
    if (role == "end") return write_and_end(uri, 50, false);
    if (role == "large") return write_large(uri);
    if (role == "fork") return write_and_fork(uri);
    if (role == "hold") return hold_with_child(uri);
    if (role == "limited") return write_limited(uri);
#ifndef SQLSTREAM_SANITIZED
    if (role == "memory") return run_without_memory(arguments);
    if (role == "threads") return run_without_threads(arguments);
#endif
    if (role == "end-waiting") return end_waiting(uri, arguments.at(1));
    if (role == "fork-waiting") return fork_waiting(uri, arguments.at(1));
    throw std::runtime_error("no role " + role);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}

TEST_CASE("a program that ends leaves all in the replica") {
  const Replicated at;
  for (const char* role : {"close", "end", "close"}) {
    INFO(role);
    CHECK(wait_for(start_role(role, {at.uri()})) == 0);
    at.expect_restored();
  }
}

TEST_CASE("a killed shipper is followed by another process, though its child lives on") {
  const Replicated at;
  int out = -1;
  const pid_t holder = start_role("hold", {at.uri()}, &out);
  const UniqueFd output(out);
  const std::string line = read_line(out);
  REQUIRE_FALSE(line.empty());
  const pid_t child = std::stoi(line);

  Writer db(at.uri());
  db.must("INSERT INTO t(x) VALUES (1)");
  db.shipped();
  CHECK(db.must("SELECT sqlstream_status()").find("another process") != std::string::npos);
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
  CHECK(::kill(child, 0) == 0);
  db.must("INSERT INTO t(x) VALUES (2)");
  db.shipped();
  CHECK(db.must("SELECT sqlstream_status()").find("this process") != std::string::npos);
  at.expect_restored();
  ::kill(child, SIGKILL);
}

TEST_CASE("forked children write over connections of their own" * doctest::skip(kSanitized)) {
  const Replicated at;
  CHECK(wait_for(start_role("fork", {at.uri()})) == 0);
  Writer db(at.uri());
  CHECK(db.must("SELECT count(*) FROM t") == "120\n");
  db.shipped();
  at.expect_restored();
}
