// Each allocation fails once, or all from one on: SQLite's own fault injection, for what the shim
// adds. Where SQLite's allocator itself does not fail, what SQLite returns is told exactly.

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <list>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "allocations.h"
#include "base/unique_fd.h"
#include "support.h"

using sqlstream::UniqueFd;
using namespace sqlstream::testing;

namespace {

using allocations::AsApplication;
using allocations::AsNobody;
using allocations::Threads;

bool sqlite_may_fail = false;

Threads threads_named(const std::string& name) {
  if (name == "application") return Threads::application;
  return name == "engine" ? Threads::engine : Threads::sqlite;
}

/// A connection of the application under test: a result that it must not see is an exception.
class Client {
 public:
  explicit Client(const std::string& uri) { open(uri); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() {
    const AsApplication application;
    sqlite3_close(db_);
  }

  /// SQLite's result codes are as without the shim. `sql` does the same when it is run again.
  void must(const char* sql) { expect(sql, {SQLITE_OK}); }
  /// What the shim itself answers may fail.
  void may(const char* sql) { expect(sql, {SQLITE_OK, SQLITE_NOMEM}); }
  std::string value(const char* sql) {
    value_.clear();
    must(sql);
    return value_;
  }
  bool is_one(const char* sql) { return value(sql) == "1"; }

 private:
  static int on_row(void* self, int, char** values, char**) {
    const AsNobody exempt;
    static_cast<Client*>(self)->value_ = values[0] ? values[0] : "";
    return 0;
  }

  int try_open(const std::string& uri) {
    const AsApplication application;
    const int result =
        sqlite3_open_v2(uri.c_str(), &db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "sqlstream");
    if (result == SQLITE_OK) return result;
    sqlite3_close(db_);
    db_ = nullptr;
    return result;
  }

  // What an open may cost is that the program has to try again.
  void open(const std::string& uri) {
    int result = try_open(uri);
    if (result == SQLITE_NOMEM) result = try_open(uri);
    if (result == SQLITE_NOMEM) {
      allocations::stop();
      result = try_open(uri);
    }
    if (result != SQLITE_OK) throw std::runtime_error("open: " + std::to_string(result));
  }

  int execute(const char* sql) {
    const AsApplication application;
    return sqlite3_exec(db_, sql, on_row, this, nullptr);
  }

  void expect(const char* sql, std::initializer_list<int> allowed) {
    int result = execute(sql);
    // Where SQLite's allocator fails, once, any statement may, as without the shim.
    if (sqlite_may_fail && result != SQLITE_OK) {
      const int why = sqlite3_extended_errcode(db_);
      if (why == SQLITE_NOMEM || why == SQLITE_IOERR_NOMEM) result = execute(sql);
    }
    for (const int one : allowed) {
      if (result == one) return;
    }
    throw std::runtime_error(std::string(sql) + ": " + std::to_string(result) + ", " +
                             sqlite3_errmsg(db_));
  }

  sqlite3* db_ = nullptr;
  std::string value_;
};

void insert(Client& db, int rows, int size = 300) {
  static int last = 0;
  for (int i = 0; i < rows; ++i) {
    const std::string values = std::to_string(++last) + ", randomblob(" + std::to_string(size);
    db.must(("INSERT OR IGNORE INTO t(i, x) VALUES (" + values + "))").c_str());
  }
}

// Through everything that the shim does on the application's threads; 21 rows.
void work(const std::string& uri) {
  Client db(uri);
  db.must("PRAGMA page_size = 512; CREATE TABLE IF NOT EXISTS t(i INTEGER PRIMARY KEY, x)");
  insert(db, 10);
  db.must("PRAGMA wal_checkpoint(TRUNCATE)");
  insert(db, 3);
  db.may("PRAGMA sqlstream_status");
  db.may("SELECT sqlstream_status(), sqlstream_version()");
  db.may("SELECT sqlstream_wait(500)");
  db.must("PRAGMA wal_checkpoint(RESTART)");
  insert(db, 1);
  db.may("PRAGMA sqlstream_sync = 500");
  insert(db, 1);
  {
    Client other(uri + "&sync=500");
    insert(other, 2);
    // More than one region of the wal-index, and more than one read.
    insert(db, 1, 2'300'000);
    insert(other, 1);
  }
  db.must("PRAGMA locking_mode = EXCLUSIVE");
  insert(db, 1);
  db.must("PRAGMA locking_mode = NORMAL");
  insert(db, 1);
}

// With memory: nothing is lost, and the replica gets all of it.
void look(const std::string& uri) {
  Client db(uri);
  if (!db.is_one("SELECT count(*) = 21 FROM t")) throw std::runtime_error("rows are missing");
  if (!db.is_one("SELECT integrity_check = 'ok' FROM pragma_integrity_check")) {
    throw std::runtime_error("the database is damaged");
  }
  insert(db, 1);
  // What OpenSSL could not begin it never does; else it is tried every 5 s.
  for (int i = 0, refused = 0; i < 50; ++i) {
    if (db.is_one("SELECT sqlstream_wait(1000)")) return;
    refused = db.is_one(
                  "SELECT sqlstream_status() GLOB '*OpenSSL*' OR "
                  "sqlstream_status() GLOB '*certificate*' OR "
                  "sqlstream_status() GLOB '*usable TLS*'")
                  ? refused + 1
                  : 0;
    if (refused == 12) throw std::runtime_error("no OpenSSL");
  }
  throw std::runtime_error("not shipped: " + db.value("SELECT sqlstream_status()"));
}

}  // namespace

// Arguments: the database, whose allocations fail, the first that does, "once" or "onwards". Says
// how many allocations there were until the memory came back.
int sqlstream::testing::run_without_memory(const std::vector<std::string>& arguments) {
  const std::string& uri = arguments.at(0);
  const Threads threads = threads_named(arguments.at(1));
  sqlite_may_fail = threads == Threads::sqlite;
  allocations::begin();
  register_shim();
  allocations::fail(threads, std::stoll(arguments.at(2)), arguments.at(3) == "onwards");
  work(uri);
  std::printf("%lld\n", static_cast<long long>(allocations::count(threads)));
  std::fflush(stdout);
  allocations::stop();
  look(uri);
  return 0;
}

// Arguments: the database, how many threads can be had at first.
int sqlstream::testing::run_without_threads(const std::vector<std::string>& arguments) {
  const std::string& uri = arguments.at(0);
  register_shim();
  allocations::limit_threads(std::stoi(arguments.at(1)));
  Client db(uri);
  db.must("CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  insert(db, 3);
  if (!db.is_one("SELECT sqlstream_wait(50) = 0")) throw std::runtime_error("shipped by nobody");
  const auto lines = take_log();
  const auto told = std::count_if(lines.begin(), lines.end(), [](const std::string& line) {
    return line.find("there are no threads to be had") != std::string::npos;
  });
  if (told != 1) throw std::runtime_error("not said once");
  allocations::limit_threads(INT_MAX);
  insert(db, 1);
  if (!db.is_one("SELECT sqlstream_wait(50000)")) throw std::runtime_error("not shipped");
  return 0;
}

namespace {

constexpr std::size_t kTogether = 4;  // processes: they wait more than they work
constexpr int kBeginning = 8;         // allocations of which each fails in every run of the test

/// A process with the role "memory", and its database.
class Run {
 public:
  Run(const std::string& threads, int number, const std::string& how)
      : name_(std::to_string(number) + " " + how) {
    int out = -1;
    pid_ = start_role("memory", {at_.uri(), threads, std::to_string(number), how}, &out);
    output_ = UniqueFd(out);
  }

  /// The application was right, and the replica has caught up. How many allocations there were.
  int end() {
    INFO(name_);
    const std::string line = read_line(output_.get());
    const int status = wait_for(pid_);
    CHECK(status == 0);
    if (status == 0) at_.expect_restored();
    return line.empty() ? 0 : std::stoi(line);
  }

 private:
  std::string name_;
  Replicated at_;
  UniqueFd output_;
  pid_t pid_ = -1;
};

void fail_each(const std::string& threads, std::initializer_list<std::string> ways) {
  const int all = Run(threads, 0, "once").end();
  REQUIRE(all > 100);
  MESSAGE(all << " allocations");
  const bool every = std::getenv("SQLSTREAM_LONG") != nullptr;
  for (const std::string& how : ways) {
    const int step = every ? 1 : all / (how == "once" ? 24 : 6);
    const int seed = static_cast<int>(test_seed() % static_cast<unsigned>(step));
    std::list<Run> runs;
    for (int number = 1; number <= all; ++number) {
      if (number > kBeginning && number % step != seed) continue;
      if (runs.size() == kTogether) {
        runs.front().end();
        runs.pop_front();
      }
      runs.emplace_back(threads, number, how);
    }
    for (Run& run : runs) run.end();
  }
}

}  // namespace

TEST_CASE("memory: each allocation of the application's threads fails") {
  fail_each("application", {"once", "onwards"});
}

TEST_CASE("memory: each allocation of the engine's threads fails") {
  fail_each("engine", {"once", "onwards"});
}

TEST_CASE("memory: each allocation of SQLite's allocator fails, for SQLite and for the shim") {
  fail_each("sqlite", {"once"});
}

TEST_CASE("threads that cannot be had: the application goes on, and they are tried again") {
  for (const char* had : {"0", "1", "2"}) {
    INFO(had << " of three");
    const Replicated at;
    CHECK(wait_for(start_role("threads", {at.uri(), had})) == 0);
    at.expect_restored();
  }
}
