// The same random work through SQLite's own VFS, through the shim, and through the shim with all
// its hooks: the same results, result codes and bytes.

#include <array>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>

#include <doctest/doctest.h>

#include "recording_connection.h"
#include "support.h"

using namespace sqlstream::testing;

namespace {

/// One history, drawn from a seed.
class Workload {
 public:
  explicit Workload(unsigned seed) : random_(seed) {}

  std::string next() {
    const int key = pick(400);
    switch (pick(26)) {
      case 0:
        return pragma("page_size", {"512", "1024", "4096", "65536"});
      case 1:
        return pragma("journal_mode", {"WAL", "WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"});
      case 2:
        return pragma("mmap_size", {"0", "65536", "10000000"});
      case 3:
        return pragma("locking_mode", {"NORMAL", "NORMAL", "EXCLUSIVE"});
      case 4:
        return pragma("synchronous", {"OFF", "OFF", "OFF", "NORMAL", "FULL"});
      case 5:
        return pragma("wal_checkpoint", {"PASSIVE", "FULL", "RESTART", "TRUNCATE"});
      case 6:
        return pragma("auto_vacuum", {"NONE", "FULL", "INCREMENTAL"});
      case 7:
        return pragma("journal_size_limit", {"-1", "0", "10000"});
      case 8:
        return pragma("cache_size", {"10", "2000"});
      case 9:
        return pick(3) == 0 ? "VACUUM" : "PRAGMA incremental_vacuum(5)";
      case 10:
        return "BEGIN";
      case 11:
        return "COMMIT";
      case 12:
        return pick(2) ? "ROLLBACK" : "SAVEPOINT s";
      case 13:
        return pick(2) ? "ROLLBACK TO s" : "RELEASE s";
      case 14:
        return "CREATE TABLE IF NOT EXISTS t" + std::to_string(pick(3)) +
               "(k INTEGER PRIMARY KEY, v)";
      case 15:
        return "DROP TABLE t" + std::to_string(1 + pick(2));
      case 16:
        return "DELETE FROM t" + std::to_string(pick(3)) +
               " WHERE k % 3 = " + std::to_string(pick(3));
      case 17:
        return "ATTACH 'file:' || (SELECT file FROM pragma_database_list WHERE name='main') || "
               "'.attached' AS a; PRAGMA a.synchronous=OFF";
      case 18:
        return "DETACH a";
      case 19:
        return "CREATE TABLE IF NOT EXISTS a.t0(k INTEGER PRIMARY KEY, v); INSERT INTO a.t0 "
               "DEFAULT VALUES";
      case 20:
        return "SELECT count(*), sum(length(v)) FROM t" + std::to_string(pick(3));
      case 21:
        return "PRAGMA integrity_check";
      default:
        return "INSERT OR " + std::string(pick(2) ? "REPLACE" : "ABORT") + " INTO t" +
               std::to_string(pick(3)) + " VALUES (" + std::to_string(key) + ", zeroblob(" +
               std::to_string(pick(3000)) + "))";
    }
  }

 private:
  int pick(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  template <std::size_t n>
  std::string pragma(const char* name, const char* const (&values)[n]) {
    return std::string("PRAGMA ") + name + "=" + values[pick(n)];
  }

  std::mt19937 random_;
};

}  // namespace

TEST_CASE("random work has the same outcome with and without the shim") {
  register_shim();
  const char* given = std::getenv("SQLSTREAM_TEST_SEED");
  const unsigned first = given ? static_cast<unsigned>(std::atoi(given)) : std::random_device{}();
  for (unsigned seed = first; seed != first + 6; ++seed) {
    const std::string repeat = "SQLSTREAM_TEST_SEED=" + std::to_string(seed);
    INFO(repeat);
    const TempFolder folder;
    struct Way {
      std::string path;
      std::string uri;
      const char* vfs;
    };
    const std::string plain = folder.file("plain.db");
    const std::string shim = folder.file("shim.db");
    const std::string hooks = folder.file("hooks.db");
    const std::array<Way, 3> ways = {{{plain, plain, "unix"},
                                      {shim, shim, "sqlstream"},
                                      {hooks, replicated(hooks), "sqlstream"}}};

    Workload workload(seed);
    int done = 0;
    for (int reopened = 0; reopened < 3; ++reopened) {
      std::array<Sqlite, 3> dbs = {Sqlite(ways[0].uri, ways[0].vfs),
                                   Sqlite(ways[1].uri, ways[1].vfs),
                                   Sqlite(ways[2].uri, ways[2].vfs)};
      CHECK(open_connections() == 1);
      for (Sqlite& db : dbs) db.must("PRAGMA synchronous=OFF");
      for (int step = 0; step < 150; ++step) {
        const std::string sql = workload.next();
        CAPTURE(sql);
        const std::string rows = dbs[0].run(sql);
        done += dbs[0].result() == SQLITE_OK ? 1 : 0;
        for (std::size_t i = 1; i < dbs.size(); ++i) {
          REQUIRE(dbs[i].run(sql) == rows);
          REQUIRE(dbs[i].result() == dbs[0].result());
          REQUIRE(dbs[i].extended() == dbs[0].extended());
        }
      }
      for (Sqlite& db : dbs) db.close();
      CHECK(open_connections() == 0);
      for (std::size_t i = 1; i < ways.size(); ++i) {
        // Not CHECK on the contents: a failure would print them.
        CHECK((read_file(ways[i].path) == read_file(ways[0].path)));
        CHECK((read_file(ways[i].path + ".attached") == read_file(ways[0].path + ".attached")));
      }
    }
    CHECK(done > 150);
    take_events();
  }
}

TEST_CASE("two connections get the same answers about each other") {
  register_shim();
  const TempFolder folder;
  std::string outcome[3];
  const std::string uris[3] = {folder.file("a"), folder.file("b"), replicated(folder.file("c"))};
  const char* const vfs[3] = {"unix", "sqlstream", "sqlstream"};
  for (int i = 0; i < 3; ++i) {
    for (const char* mode : {"DELETE", "WAL"}) {
      Sqlite one(uris[i], vfs[i]);
      one.must(std::string("PRAGMA journal_mode=") + mode);
      one.must("CREATE TABLE IF NOT EXISTS t(x)");
      Sqlite two(uris[i], vfs[i]);
      for (const char* sql : {"BEGIN", "SELECT count(*) FROM t", "INSERT INTO t VALUES (1)"}) {
        outcome[i] += two.run(sql) + std::to_string(two.result()) + ';';
      }
      for (const char* sql :
           {"BEGIN IMMEDIATE", "INSERT INTO t VALUES (2)", "PRAGMA wal_checkpoint(TRUNCATE)",
            "SELECT * FROM t", "PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=DELETE"}) {
        outcome[i] += one.run(sql) + std::to_string(one.extended()) + ';';
      }
      outcome[i] += two.run("COMMIT") + std::to_string(two.extended()) + '\n';
    }
  }
  CHECK(outcome[1] == outcome[0]);
  CHECK(outcome[2] == outcome[0]);
  CHECK(outcome[0].find("5;") != std::string::npos);
  take_events();
}
