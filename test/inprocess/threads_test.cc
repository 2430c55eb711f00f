// Many threads, connections and databases in one process.

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "support.h"

using namespace sqlstream::testing;

namespace {

using Db = std::unique_ptr<sqlite3, int (*)(sqlite3*)>;

Db open(const std::string& uri) {
  return {open_writer(uri), sqlite3_close};
}

long snapshots(const Replicated& at) {
  const std::filesystem::path generations = at.replica() + "/generations";
  std::error_code none;
  std::filesystem::recursive_directory_iterator all(generations, none);
  return none ? 0 : std::count_if(begin(all), end(all), [](const auto& entry) {
    return entry.path().string().ends_with(".snapshot.lz4");
  });
}

}  // namespace

TEST_CASE(
    "threads write, checkpoint and look, and what is restored meanwhile is a commit's state") {
  const Replicated at;
  Writer first(at.uri());
  // Each commit changes both tables: no state in between may ever be seen.
  first.must(
      "PRAGMA journal_mode=WAL; CREATE TABLE a(i INTEGER PRIMARY KEY, v, x);"
      "CREATE TABLE b(v); INSERT INTO b VALUES (0)");
  constexpr int kThreads = 4;
  constexpr int kSteps = 150;
  const std::uint64_t seed = test_seed();
  std::atomic<int> failures{0};
  std::atomic<int> running{kThreads};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int number = 0; number < kThreads; ++number) {
    threads.emplace_back([&, number] {
      std::mt19937_64 random(seed + static_cast<std::uint64_t>(number));
      const Db db = open(at.uri());
      if (!db) ++failures;
      for (int step = 0; db && step < kSteps; ++step) {
        static constexpr const char* kModes[] = {"PASSIVE", "FULL", "RESTART", "TRUNCATE"};
        bool ok = true;
        switch (random() % 12) {
          case 0:
            ok =
                works(db.get(), std::string("PRAGMA wal_checkpoint(") + kModes[random() % 4] + ")");
            break;
          case 1:
            ok = works(db.get(), "SELECT sqlstream_status()");
            break;
          case 2:
            ok = works(db.get(), "BEGIN IMMEDIATE; INSERT INTO a(v) VALUES (1); ROLLBACK");
            break;
          case 3:
            ok = works(db.get(),
                       "BEGIN IMMEDIATE; DELETE FROM a WHERE i % 3 = 0;"
                       "UPDATE b SET v = (SELECT count(*) FROM a); COMMIT");
            break;
          default:
            ok = works(db.get(),
                       "BEGIN IMMEDIATE; INSERT INTO a(v, x) VALUES (1, randomblob(500));"
                       "UPDATE b SET v = (SELECT count(*) FROM a); COMMIT");
        }
        if (!ok) ++failures;
      }
      --running;
    });
  }
  int restored = 0;
  first.shipped();
  do {
    Sqlite copy(at.restore(), "unix");
    CHECK(copy.must("PRAGMA integrity_check") == "ok\n");
    CHECK(copy.must("SELECT v = (SELECT count(*) FROM a) FROM b") == "1\n");
    ++restored;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  } while (running > 0);
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
  CHECK(restored > 0);
  first.shipped();
  at.expect_restored();
  first.must("PRAGMA wal_checkpoint(TRUNCATE)");
  first.shipped();
  at.expect_restored();
}

TEST_CASE("snapshots in place while threads overwrite and checkpoint") {
  const Replicated at;
  const std::string uri = at.uri() + "%26snapshot-interval%3D1s";
  Writer first(uri);
  first.must(
      "PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, step, x);"
      "CREATE TABLE total(sum); INSERT INTO total VALUES (0);"
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) "
      "INSERT INTO t SELECT i, 0, randomblob(3900) FROM n");
  const std::uint64_t seed = test_seed();
  std::atomic<int> failures{0};
  std::atomic<bool> ended{false};
  std::vector<std::thread> threads;
  threads.reserve(2);
  for (std::uint64_t number = 0; number < 2; ++number) {
    threads.emplace_back([&, number] {
      std::mt19937_64 random(seed + number);
      const Db db = open(uri);
      if (!db) ++failures;
      while (db && !ended) {
        const std::string row = std::to_string(1 + random() % 4000);
        const bool wrote =
            works(db.get(),
                  "BEGIN IMMEDIATE; UPDATE t SET step = step + 1, x = randomblob(3900) "
                  "WHERE i BETWEEN " +
                      row + " AND " + row +
                      " + 20;"
                      "UPDATE total SET sum = (SELECT sum(step) FROM t); COMMIT");
        if (!wrote) ++failures;
        if (random() % 4 == 0 && !works(db.get(), "PRAGMA wal_checkpoint(PASSIVE)")) ++failures;
      }
    });
  }
  bool saved = false;
  for (int i = 0; i < 6000 && snapshots(at) < 4; ++i) {
    saved |= std::filesystem::exists(at.file(".app.db-sqlstream/old-pages"));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(snapshots(at) >= 4);
  CHECK(saved);
  Sqlite copy(at.restore(), "unix");
  CHECK(copy.must("PRAGMA integrity_check") == "ok\n");
  CHECK(copy.must("SELECT sum = (SELECT sum(step) FROM t) FROM total") == "1\n");
  ended = true;
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
  first.shipped();
  at.expect_restored();
}

TEST_CASE("connections open and close all the time") {
  const Replicated at;
  Writer(at.uri()).must("PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  threads.reserve(3);
  for (int number = 0; number < 3; ++number) {
    threads.emplace_back([&] {
      for (int i = 0; i < 40; ++i) {
        const Db db = open(at.uri());
        if (!db || !works(db.get(), "INSERT INTO t VALUES (randomblob(1000))")) ++failures;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
  Writer last(at.uri());
  CHECK(last.must("SELECT count(*) FROM t") == "120\n");
  last.shipped();
  at.expect_restored();
}

TEST_CASE("twenty databases at once") {
  constexpr std::size_t kDatabases = 20;
  register_shim();
  const std::vector<Replicated> all(kDatabases);
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  threads.reserve(2);
  for (std::size_t number = 0; number < 2; ++number) {
    threads.emplace_back([&, number] {
      std::vector<Db> open_ones;
      for (std::size_t i = number; i < kDatabases; i += 2) {
        open_ones.push_back(open(all[i].uri()));
        if (!works(open_ones.back().get(), "PRAGMA journal_mode=WAL; CREATE TABLE t(x)"))
          ++failures;
      }
      for (int i = 0; i < 20; ++i) {
        for (const auto& db : open_ones) {
          if (!works(db.get(), "INSERT INTO t VALUES (randomblob(100))")) ++failures;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
  for (const auto& one : all) {
    Writer(one.uri()).shipped();
    one.expect_restored();
  }
}

TEST_CASE("a database that was not in WAL mode, and one with content in its WAL") {
  const Replicated at;
  {
    Sqlite plain(at.path(), "unix");
    plain.must("CREATE TABLE t(x); INSERT INTO t VALUES (1), (2), (3)");
    SUBCASE("rollback journal") {}
    SUBCASE("left in the WAL") {
      int on = 0;
      sqlite3_db_config(plain.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, &on);
      plain.must("PRAGMA journal_mode=WAL; INSERT INTO t VALUES (4)");
    }
  }
  Writer db(at.uri());
  db.must("INSERT INTO t VALUES (5)");
  CHECK(db.must("PRAGMA journal_mode") == "wal\n");
  db.shipped();
  at.expect_restored();
}
