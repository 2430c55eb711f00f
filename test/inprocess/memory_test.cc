// Each allocation fails once, or all from one on: SQLite's own fault injection, for what the shim
// adds. Where SQLite's allocator itself does not fail, what SQLite returns is told exactly.

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
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
bool restores = false;  // what is opened, where it is missing

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
  /// As "attached".
  void attach(const std::string& uri) {
    const std::string sql = "ATTACH '" + uri + "' AS attached";
    with_memory_in_the_end([&] { return execute(sql.c_str()); });
  }
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

  void open(const std::string& uri) {
    with_memory_in_the_end([&] { return try_open(uri); });
  }

  // What an open may cost is that the program has to try again; a restore that gets no thread for
  // want of memory cannot tell why.
  static bool is_worth_another(int result) {
    return result == SQLITE_NOMEM || (restores && result == SQLITE_CANTOPEN);
  }

  template <class Attempt>
  void with_memory_in_the_end(const Attempt& attempt) {
    int result = attempt();
    if (is_worth_another(result)) result = attempt();
    if (is_worth_another(result)) {
      allocations::stop();
      result = attempt();
    }
    if (result != SQLITE_OK) {
      throw std::runtime_error("open: " + std::to_string(result) + ", " + sqlite3_errmsg(db_));
    }
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

void insert(Client& db, int rows, int size = 300, const std::string& table = "t") {
  static int last = 0;
  for (int i = 0; i < rows; ++i) {
    const std::string values = std::to_string(++last) + ", randomblob(" + std::to_string(size);
    db.must(("INSERT OR IGNORE INTO " + table + "(i, x) VALUES (" + values + "))").c_str());
  }
}

struct Uris {
  std::string main;
  std::string attached;
};

// Through everything that the shim does on the application's threads; 21 rows, and 3 in the other.
void work(const Uris& uris) {
  Client db(uris.main);
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
    Client other(uris.main + "&sync=500");
    insert(other, 2);
    // More than one region of the wal-index, and more than one read.
    insert(db, 1, 2'300'000);
    insert(other, 1);
  }
  db.must("PRAGMA locking_mode = EXCLUSIVE");
  insert(db, 1);
  db.must("PRAGMA locking_mode = NORMAL");
  insert(db, 1);
  // At the end, since it has memory again when nothing else helps.
  db.attach(uris.attached);
  db.must("CREATE TABLE IF NOT EXISTS attached.t(i INTEGER PRIMARY KEY, x)");
  insert(db, 2, 300, "attached.t");
  db.must("PRAGMA attached.wal_checkpoint(TRUNCATE)");
  insert(db, 1, 300, "attached.t");
}

// With memory: nothing is lost, and the replica gets all of it. What was restored has other
// numbers.
void look(const std::string& uri, int rows) {
  Client db(uri);
  if (db.value("SELECT count(*) FROM t WHERE i > 0") != std::to_string(rows)) {
    throw std::runtime_error("rows are missing");
  }
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

// Arguments: the database, one to be attached, whose allocations fail, the first that does, "once"
// or "onwards", and maybe a configuration file and "restored". Says how many allocations
// there were until the memory came back.
int sqlstream::testing::run_without_memory(const std::vector<std::string>& arguments) {
  const Uris uris{arguments.at(0), arguments.at(1)};
  const Threads threads = threads_named(arguments.at(2));
  sqlite_may_fail = threads == Threads::sqlite;
  restores = arguments.size() > 6 && arguments[6] == "restored";
  allocations::begin();
  register_shim();
  if (arguments.size() > 5) ::setenv("SQLSTREAM_CONFIG", arguments[5].c_str(), 1);
  allocations::fail(threads, std::stoll(arguments.at(3)), arguments.at(4) == "onwards");
  work(uris);
  std::printf("%lld\n", static_cast<long long>(allocations::count(threads)));
  std::fflush(stdout);
  allocations::stop();
  look(uris.main, 21);
  look(uris.attached, 3);
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
constexpr int kBeginning = 4;         // allocations of which each fails in every run of the test
constexpr int kRestored = 10;         // rows

/// Where a process with the role "memory" gets its replicas from.
enum class From : std::uint8_t { uris, file, file_that_restores };

/// A replica of a database with rows that the role itself does not write.
class Before {
 public:
  Before() {
    Writer writer(at_.uri());
    writer.must("CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
    for (int i = 1; i <= kRestored; ++i) {
      writer.must("INSERT INTO t VALUES (-" + std::to_string(i) + ", randomblob(3000))");
      if (i % 5 == 0) writer.shipped();
    }
  }
  void copy_to(const std::string& folder) const {
    std::filesystem::copy(at_.replica(), folder, std::filesystem::copy_options::recursive);
  }

 private:
  Replicated at_;
};

/// A process with the role "memory", and its databases.
class Run {
 public:
  Run(const std::string& threads, int number, const std::string& how, From from,
      const Before& before)
      : name_(std::to_string(number) + " " + how), from_(from) {
    int out = -1;
    const std::string numbered = std::to_string(number);
    if (from == From::uris) {
      pid_ = start_role("memory", {main_.uri(), attached_.uri(), threads, numbered, how}, &out);
    } else {
      const std::string file = main_.file("config.yml");
      std::ofstream(file) << "dbs:\n" << entry(main_, before) << entry(attached_, before);
      const auto uri = [](const Replicated& at) { return "file:" + at.path() + "?vfs=sqlstream"; };
      const char* restored = from == From::file_that_restores ? "restored" : "not restored";
      pid_ = start_role("memory",
                        {uri(main_), uri(attached_), threads, numbered, how, file, restored}, &out);
    }
    output_ = UniqueFd(out);
  }

  /// The application was right, and the replicas have caught up. How many allocations there were.
  int end() {
    INFO(name_);
    const std::string line = read_line(output_.get());
    const int status = wait_for(pid_);
    CHECK(status == 0);
    for (const Replicated* at : {&main_, &attached_}) {
      if (status != 0) break;
      at->expect_restored();
      Sqlite plain(at->path(), "unix");
      const int restored = from_ == From::file_that_restores ? kRestored : 0;
      CHECK(plain.must("SELECT count(*) FROM t WHERE i < 0") == std::to_string(restored) + "\n");
    }
    return line.empty() ? 0 : std::stoi(line);
  }

 private:
  std::string entry(const Replicated& at, const Before& before) const {
    std::string entry = "  - path: " + at.path() +
                        "\n    replicas:\n      - path: " + at.replica() +
                        "\n        sync-interval: 50ms\n";
    if (from_ != From::file_that_restores) return entry;
    before.copy_to(at.replica());
    return entry + "    restore-if-missing: true\n";
  }

  std::string name_;
  From from_;
  Replicated main_;
  Replicated attached_;
  UniqueFd output_;
  pid_t pid_ = -1;
};

void fail_each(const std::string& threads, std::initializer_list<std::string> ways,
               std::initializer_list<From> places) {
  const bool every = std::getenv("SQLSTREAM_LONG") != nullptr;
  const Before before;
  for (const From from : places) {
    const int all = Run(threads, 0, "once", from, before).end();
    REQUIRE(all > 100);
    MESSAGE(all << " allocations");
    for (const std::string& how : ways) {
      const int sampled = (how == "once" ? 24 : 6) / static_cast<int>(places.size());
      const int step = every ? 1 : all / sampled;
      const int seed = static_cast<int>(test_seed() % static_cast<unsigned>(step));
      std::list<Run> runs;
      for (int number = 1; number <= all; ++number) {
        if (number > kBeginning && number % step != seed) continue;
        if (runs.size() == kTogether) {
          runs.front().end();
          runs.pop_front();
        }
        runs.emplace_back(threads, number, how, from, before);
      }
      for (Run& run : runs) run.end();
    }
  }
}

}  // namespace

TEST_CASE("memory: each allocation of the application's threads fails") {
  fail_each("application", {"once", "onwards"}, {From::uris, From::file, From::file_that_restores});
}

TEST_CASE("memory: each allocation of the engine's threads fails") {
  fail_each("engine", {"once", "onwards"}, {From::uris});
  // Not onwards: an open that restores waits for memory, for seconds each time.
  fail_each("engine", {"once"}, {From::file_that_restores});
}

TEST_CASE("memory: an open that restores does not wait for ever for the engine's") {
  const Before before;
  std::list<Run> runs;
  for (const int number : {1, 60, 200, 400}) {
    runs.emplace_back("engine", number, "onwards", From::file_that_restores, before);
  }
  for (Run& run : runs) run.end();
}

TEST_CASE("memory: each allocation of SQLite's allocator fails, for SQLite and for the shim") {
  fail_each("sqlite", {"once"}, {From::uris});
}

TEST_CASE("threads that cannot be had: the application goes on, and they are tried again") {
  for (const char* had : {"0", "1", "2"}) {
    INFO(had << " of three");
    const Replicated at;
    CHECK(wait_for(start_role("threads", {at.uri(), had})) == 0);
    at.expect_restored();
  }
}
