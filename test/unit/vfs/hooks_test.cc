// Which hooks SQLite's work reaches, and in which order.

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "recording_connection.h"
#include "support.h"

using namespace sqlstream::testing;
using Events = std::vector<std::string>;

namespace {

long index_of(const Events& events, const std::string& event, long from = 0) {
  const auto found = std::find(events.begin() + from, events.end(), event);
  return found == events.end() ? -1 : found - events.begin();
}

bool has(const Events& events, const std::string& event) {
  return index_of(events, event) >= 0;
}

std::string joined(const Events& events) {
  std::string all;
  for (const std::string& event : events) all += event + "; ";
  return all;
}

/// Events in this order, others between them.
bool in_order(const Events& events, const Events& wanted) {
  long at = 0;
  for (const std::string& event : wanted) {
    const long found = index_of(events, event, at);
    if (found < 0) return false;
    at = found + 1;
  }
  return true;
}

struct Warm {
  TempFolder folder;
  std::string path = folder.file("app.db");
  Sqlite db;

  Warm() : db((register_shim(), replicated(path))) {
    db.must("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (0)");
    take_events();
  }
};

}  // namespace

TEST_CASE("opening, turning WAL on and the first commit") {
  register_shim();
  const TempFolder folder;
  take_events();
  Sqlite db(replicated(folder.file("app.db")));
  REQUIRE(db.result() == SQLITE_OK);
  db.must("PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
  const Events events = take_events();
  INFO(joined(events));
  CHECK(in_order(events, {"open app.db", "locked 1", "database_written", "region_mapped 0",
                          "write_lock_obtained", "wal_beginning 32", "write_lock_released",
                          "commit_phase_two"}));
  CHECK(open_connections() == 1);
  db.close();
  CHECK(open_connections() == 0);
}

TEST_CASE("a commit in WAL mode") {
  Warm warm;
  warm.db.must("INSERT INTO t VALUES (1)");
  CHECK(joined(take_events()) ==
        joined(Events{"write_lock_obtained", "write_lock_released", "commit_phase_two"}));

  SUBCASE("a rollback takes the write lock too") {
    warm.db.must("BEGIN IMMEDIATE; INSERT INTO t VALUES (2); ROLLBACK");
    CHECK(joined(take_events()) == joined(Events{"write_lock_obtained", "write_lock_released"}));
  }
  SUBCASE("a read takes none") {
    warm.db.must("SELECT * FROM t");
    CHECK(take_events().empty());
  }
  SUBCASE("a busy writer does not obtain it") {
    Sqlite other(replicated(warm.path));
    other.must("BEGIN IMMEDIATE");
    take_events();
    warm.db.run("INSERT INTO t VALUES (2)");
    CHECK(warm.db.result() == SQLITE_BUSY);
    CHECK(take_events().empty());
  }
}

TEST_CASE("a commit is visible to others when the write lock was released, not before") {
  Warm warm;
  static std::string path;
  static std::string seen;
  path = warm.path;
  seen.clear();
  set_observer([](const std::string& event) {
    if (event != "write_lock_obtained" && event != "write_lock_released") return;
    Sqlite reader("file:" + path, "unix");
    seen += event + ' ' + reader.run("SELECT count(*) FROM t");
  });
  warm.db.must("INSERT INTO t VALUES (1)");
  set_observer(nullptr);
  CHECK(seen == "write_lock_obtained 1\nwrite_lock_released 2\n");
}

TEST_CASE("a passive checkpoint, and the reset by the next writer") {
  Warm warm;
  warm.db.must("PRAGMA wal_checkpoint(PASSIVE)");
  Events events = take_events();
  INFO(joined(events));
  CHECK(in_order(events, {"checkpoint_starting", "database_written"}));
  CHECK_FALSE(has(events, "reset_lock_obtained"));

  warm.db.must("INSERT INTO t VALUES (1)");
  events = take_events();
  INFO(joined(events));
  CHECK(joined(events) ==
        joined(Events{"write_lock_obtained", "reset_lock_obtained", "wal_beginning 32",
                      "write_lock_released", "commit_phase_two"}));
}

TEST_CASE("RESTART and TRUNCATE checkpoints") {
  Warm warm;
  warm.db.must("PRAGMA wal_checkpoint(RESTART)");
  Events events = take_events();
  INFO(joined(events));
  CHECK(in_order(events, {"write_lock_obtained", "checkpoint_starting", "database_written",
                          "reset_lock_obtained", "write_lock_released"}));
  CHECK_FALSE(has(events, "wal_beginning 32"));

  warm.db.must("INSERT INTO t VALUES (1)");
  take_events();
  warm.db.must("PRAGMA wal_checkpoint(TRUNCATE)");
  events = take_events();
  INFO(joined(events));
  CHECK(in_order(events, {"checkpoint_starting", "database_written", "reset_lock_obtained",
                          "wal_emptying", "write_lock_released"}));
  CHECK(read_file(warm.path + "-wal").empty());
}

TEST_CASE("a WAL cut to journal_size_limit goes on") {
  Warm warm;
  warm.db.must(
      "INSERT INTO t SELECT randomblob(1000) FROM json_each('[1,2,3,4,5,6,7,8,9,10]');"
      "PRAGMA journal_size_limit=10000; PRAGMA wal_checkpoint");
  take_events();
  const auto before = read_file(warm.path + "-wal").size();
  warm.db.must("INSERT INTO t VALUES (1)");
  CHECK(read_file(warm.path + "-wal").size() < before);
  const Events events = take_events();
  INFO(joined(events));
  CHECK(std::count(events.begin(), events.end(), "wal_beginning 32") == 1);
  CHECK_FALSE(has(events, "wal_emptying"));
}

TEST_CASE("the last close") {
  Warm warm;
  warm.db.close();
  const Events events = take_events();
  INFO(joined(events));
  CHECK(in_order(events, {"locked 4", "checkpoint_starting", "database_written", "unmapping 1",
                          "wal_deleting", "unlocking 0", "unlocked 0", "closed app.db"}));
  CHECK_FALSE(has(events, "reset_lock_obtained"));
}

TEST_CASE("a close that is not the last") {
  Warm warm;
  Sqlite other(replicated(warm.path));
  other.must("SELECT * FROM t");
  take_events();
  warm.db.close();
  const Events events = take_events();
  INFO(joined(events));
  CHECK(in_order(events, {"unmapping 0", "closed app.db"}));
  CHECK_FALSE(has(events, "locked 4"));
  CHECK_FALSE(has(events, "wal_deleting"));
}

TEST_CASE("exclusive mode once the WAL is open") {
  Warm warm;
  warm.db.must("PRAGMA locking_mode=EXCLUSIVE; SELECT * FROM t");
  take_events();
  warm.db.must("INSERT INTO t VALUES (1)");
  CHECK(joined(take_events()) == joined(Events{"locked 4", "commit_phase_two"}));
  warm.db.must("INSERT INTO t VALUES (2)");
  CHECK(joined(take_events()) == joined(Events{"commit_phase_two"}));
  warm.db.must("PRAGMA wal_checkpoint");
  CHECK(has(take_events(), "checkpoint_starting"));
}

TEST_CASE("exclusive mode before the WAL is open") {
  register_shim();
  const TempFolder folder;
  Sqlite db(replicated(folder.file("app.db")));
  db.must("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
  const Events events = take_events();
  INFO(joined(events));
  CHECK(has(events, "locked 4"));
  CHECK(in_order(events, {"wal_beginning 32", "commit_phase_two"}));
  CHECK_FALSE(has(events, "region_mapped 0"));
  CHECK_FALSE(has(events, "write_lock_obtained"));
}

TEST_CASE("leaving WAL mode") {
  Warm warm;
  warm.db.must("PRAGMA journal_mode=DELETE");
  Events events = take_events();
  INFO(joined(events));
  CHECK(in_order(events, {"locked 4", "checkpoint_starting", "unmapping 1", "wal_deleting",
                          "database_written"}));
  warm.db.must("INSERT INTO t VALUES (1)");
  events = take_events();
  INFO(joined(events));
  CHECK(in_order(
      events, {"locked 4", "database_written", "commit_phase_two", "unlocking 1", "unlocked 1"}));
}

TEST_CASE("a WAL of more than one region of the wal-index") {
  Warm warm;
  warm.db.must("PRAGMA wal_autocheckpoint=0; BEGIN");
  warm.db.must(
      "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<4200)"
      "INSERT INTO t SELECT zeroblob(4000) FROM c");
  warm.db.must("COMMIT");
  CHECK(has(take_events(), "region_mapped 1"));
}

TEST_CASE("each attached database has hooks of its own; temporary ones have none") {
  Warm warm;
  const std::string second = warm.folder.file("second.db");
  warm.db.must("ATTACH '" + replicated(second) + "' AS second");
  CHECK(has(take_events(), "open second.db"));
  warm.db.must("PRAGMA second.journal_mode=WAL; CREATE TABLE second.t(x)");
  CHECK(open_connections() == 2);
  take_events();
  warm.db.must(
      "CREATE TEMP TABLE u(x); INSERT INTO u VALUES (1); ATTACH ':memory:' AS m;"
      "CREATE TABLE m.v(x)");
  CHECK(take_events().empty());
  warm.db.must("DETACH second");
  CHECK(has(take_events(), "closed second.db"));
}
