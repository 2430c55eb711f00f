// The synchronous mode: when commits wait, and with which of SQLite's locks held.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "recording_connection.h"
#include "support.h"

using namespace sqlstream::testing;

namespace {

// What is seen from outside at each wait: of the databases in `watched`, "w" where another
// connection can write, "r" where it can reset the WAL.
std::vector<std::string> watched;
std::string seen;

void look(const std::string& event) {
  if (!event.starts_with("wait_durable")) return;
  seen += event.substr(13) + ':';
  for (const std::string& path : watched) {
    Sqlite other("file:" + path, "unix");
    other.run("BEGIN IMMEDIATE");
    seen += other.result() == SQLITE_OK ? 'w' : '-';
    other.run("ROLLBACK");
    seen += other.run("PRAGMA wal_checkpoint(RESTART)").starts_with("0|") ? 'r' : '-';
  }
  seen += ' ';
}

/// Two databases in WAL mode with a table t of three rows.
struct Synced {
  TempFolder folder;
  std::string path = folder.file("app.db");
  std::string second = folder.file("second.db");
  Sqlite db;

  explicit Synced(const std::string& more = "&sync=on")
      : db((register_shim(), replicated(path, more))) {
    for (const std::string& file : {path, second}) {
      Sqlite plain("file:" + file, "unix");
      plain.must("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1), (2), (3)");
    }
    db.must("SELECT * FROM t");
    take_events();
    watched = {path};
    seen.clear();
    set_observer(look);
  }
  Synced(const Synced&) = delete;
  Synced& operator=(const Synced&) = delete;
  ~Synced() { set_observer(nullptr); }
};

std::string waits() {
  return std::exchange(seen, {});
}

/// Runs a statement up to its first row, and leaves it there.
class Busy {
 public:
  Busy(const Sqlite& db, const std::string& sql) {
    REQUIRE(sqlite3_prepare_v2(db.get(), sql.c_str(), -1, &statement_, nullptr) == SQLITE_OK);
    REQUIRE(sqlite3_step(statement_) == SQLITE_ROW);
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  ~Busy() { sqlite3_finalize(statement_); }

 private:
  sqlite3_stmt* statement_ = nullptr;
};

}  // namespace

TEST_CASE("a commit waits without any lock, once") {
  Synced at;
  at.db.must("INSERT INTO t VALUES (4)");
  CHECK(waits() == "app.db 1:wr ");
  at.db.must("BEGIN; INSERT INTO t VALUES (5); INSERT INTO t VALUES (6); COMMIT");
  CHECK(waits() == "app.db 1:wr ");
  at.db.must("BEGIN; SAVEPOINT a; INSERT INTO t VALUES (5); RELEASE a; COMMIT");
  CHECK(waits() == "app.db 1:wr ");

  SUBCASE("reads and rollbacks do not") {
    at.db.must("SELECT * FROM t; BEGIN; INSERT INTO t VALUES (7); ROLLBACK; SELECT * FROM t");
    CHECK(waits().empty());
  }
  SUBCASE("the ticket is taken before others may write") {
    take_events();
    at.db.must("INSERT INTO t VALUES (8)");
    const auto events = take_events();
    const auto at_event = [&](const std::string& name) {
      return std::find(events.begin(), events.end(), name) - events.begin();
    };
    CHECK(at_event("take_ticket app.db") < at_event("write_lock_released"));
    CHECK(at_event("commit_phase_two") < at_event("wait_durable app.db 1"));
  }
  SUBCASE("a checkpoint that follows the commit is not in the way") {
    at.db.must("PRAGMA wal_autocheckpoint=1; INSERT INTO t VALUES (9)");
    CHECK(waits() == "app.db 1:wr ");
  }
}

TEST_CASE("while another statement reads, a commit waits with its read mark only") {
  Synced at;
  {
    const Busy reader(at.db, "SELECT * FROM t");
    at.db.must("INSERT INTO t VALUES (4)");
    CHECK(waits() == "app.db 1:w- ");
  }
  CHECK(waits().empty());
  at.db.must("INSERT INTO t VALUES (5)");
  CHECK(waits() == "app.db 1:wr ");

  SUBCASE("so it does while a blob is open") {
    sqlite3_blob* blob = nullptr;
    at.db.must("CREATE TABLE b(x); INSERT INTO b VALUES ('abc')");
    waits();
    REQUIRE(sqlite3_blob_open(at.db.get(), "main", "b", "x", 1, 0, &blob) == SQLITE_OK);
    at.db.must("INSERT INTO t VALUES (6)");
    CHECK(waits() == "app.db 1:w- ");
    sqlite3_blob_close(blob);
  }
}

TEST_CASE("statements that return rows commit when they end") {
  Synced at;
  {
    const Busy inserting(at.db, "INSERT INTO t VALUES (4), (5) RETURNING x");
    CHECK(waits().empty());
  }
  CHECK(waits() == "app.db 1:wr ");
}

TEST_CASE("a commit to attached databases waits when the last lock is gone, for all") {
  Synced at;
  at.db.must("ATTACH '" + replicated(at.second, "&sync=200") +
             "' AS second; SELECT * FROM second.t");
  watched = {at.path, at.second};
  at.db.must("BEGIN; INSERT INTO main.t VALUES (4); INSERT INTO second.t VALUES (4); COMMIT");
  CHECK(waits() == "app.db 1:wrwr second.db 1:wrwr ");

  SUBCASE("one of them alone") {
    at.db.must("INSERT INTO second.t VALUES (5)");
    CHECK(waits() == "second.db 1:wrwr ");
    at.db.must("INSERT INTO main.t VALUES (5)");
    CHECK(waits() == "app.db 1:wrwr ");
  }
  SUBCASE("with a busy reader") {
    const Busy reader(at.db, "SELECT * FROM second.t");
    at.db.must("BEGIN; INSERT INTO main.t VALUES (4); INSERT INTO second.t VALUES (4); COMMIT");
    CHECK(waits() == "app.db 1:w-w- second.db 1:w-w- ");
  }
  SUBCASE("the other one does not wait") {
    at.db.must("DETACH second; ATTACH '" + replicated(at.second) + "' AS second");
    at.db.must("BEGIN; INSERT INTO main.t VALUES (4); INSERT INTO second.t VALUES (4); COMMIT");
    CHECK(waits() == "app.db 1:wrwr ");
  }
  SUBCASE("a PRAGMA is for all of the connection") {
    at.db.must("PRAGMA sqlstream_sync=off");
    CHECK(at.db.must("PRAGMA second.sqlstream_sync") == "off\n");
    at.db.must("BEGIN; INSERT INTO main.t VALUES (4); INSERT INTO second.t VALUES (4); COMMIT");
    CHECK(waits().empty());
    at.db.must("DETACH second; ATTACH '" + replicated(at.second, "&sync=on") + "' AS second");
    CHECK(at.db.must("PRAGMA second.sqlstream_sync") == "off\n");
  }
}

TEST_CASE("of two connections only the one that asked for it waits") {
  Synced at("");
  Sqlite other(replicated(at.path));
  at.db.must("PRAGMA sqlstream_sync=on");
  other.must("INSERT INTO t VALUES (4)");
  CHECK(waits().empty());
  at.db.must("INSERT INTO t VALUES (5)");
  CHECK(waits() == "app.db 1:wr ");
}

TEST_CASE("exclusive mode: a commit waits at its end") {
  Synced at;
  at.db.must("PRAGMA locking_mode=EXCLUSIVE; SELECT * FROM t; INSERT INTO t VALUES (4)");
  CHECK(waits() == "app.db 1:-- ");
  at.db.must("PRAGMA locking_mode=NORMAL; INSERT INTO t VALUES (5)");
  CHECK(waits().starts_with("app.db 1:"));
  at.db.must("INSERT INTO t VALUES (6)");
  CHECK(waits() == "app.db 1:wr ");
}

TEST_CASE("outside WAL mode a commit waits once the file is unlocked") {
  Synced at;
  at.db.must("PRAGMA journal_mode=DELETE");
  waits();
  set_outside_wal(true);
  at.db.must("INSERT INTO t VALUES (4)");
  set_outside_wal(false);
  CHECK(waits() == "app.db 1:wr ");
}

TEST_CASE("a shared cache waits where it may hold its read mark") {
  Synced at;
  at.db.close();
  Sqlite shared(replicated(at.path, "&sync=on&cache=shared"));
  shared.must("INSERT INTO t VALUES (4)");
  CHECK(waits() == "app.db 1:w- ");
}

TEST_CASE(
    "a cache is shared by everybody in the process: a reader of it makes no commit go unwaited") {
  Synced at;
  at.db.close();
  REQUIRE(sqlite3_enable_shared_cache(1) == SQLITE_OK);
  {
    Sqlite one(replicated(at.path, "&sync=on"));
    Sqlite other(replicated(at.path, "&sync=on"));
    sqlite3_enable_shared_cache(0);
    one.must("PRAGMA read_uncommitted=1; INSERT INTO t VALUES (4)");
    CHECK(waits() == "app.db 1:w- ");
    other.must("INSERT INTO t VALUES (5)");
    CHECK(waits() == "app.db 1:w- ");
    other.must("PRAGMA read_uncommitted=1");
    const Busy reader(other, "SELECT * FROM t");
    one.must("INSERT INTO t VALUES (6)");
    CHECK(waits() == "app.db 1:w- ");
  }
  sqlite3_enable_shared_cache(0);
}

TEST_CASE("PRAGMA sqlstream_sync") {
  Synced at("");
  CHECK(at.db.must("PRAGMA sqlstream_sync") == "off\n");
  CHECK(at.db.must("PRAGMA sqlstream_sync=on") == "5000\n");
  CHECK(at.db.must("PRAGMA sqlstream_sync=250") == "250\n");
  CHECK(at.db.must("PRAGMA sqlstream_sync") == "250\n");
  CHECK(at.db.must("PRAGMA sqlstream_sync=0") == "off\n");
  CHECK(at.db.must("PRAGMA sqlstream_sync='1.5s'") == "1500\n");
  CHECK(at.db.must("PRAGMA sqlstream_sync=OFF") == "off\n");
  for (const char* wrong : {"soon", "-1", "99999999999"}) {
    at.db.run(std::string("PRAGMA sqlstream_sync='") + wrong + '\'');
    CHECK(at.db.result() == SQLITE_ERROR);
  }
  at.db.must("BEGIN IMMEDIATE");
  at.db.run("PRAGMA sqlstream_sync=on");
  CHECK(at.db.result() == SQLITE_ERROR);
  CHECK(at.db.must("PRAGMA sqlstream_sync; COMMIT") == "off\n");
  Sqlite plain("file:" + at.second);
  CHECK(plain.must("PRAGMA sqlstream_sync") == "off\n");
  plain.run("PRAGMA sqlstream_sync=on");
  CHECK(plain.result() == SQLITE_ERROR);
}

TEST_CASE("the URI says how commits wait; what it cannot mean is an error") {
  register_shim();
  const TempFolder folder;
  const auto sync_of = [&](const std::string& more) {
    Sqlite db(replicated(folder.file("app.db"), more + "&strict=1"));
    return db.result() == SQLITE_OK ? db.run("PRAGMA sqlstream_sync") : "refused";
  };
  CHECK(sync_of("") == "off\n");
  CHECK(sync_of("&sync=on") == "5000\n");
  CHECK(sync_of("&sync=20&sync-policy=fail&sync-replicas=any") == "20\n");
  CHECK(sync_of("&sync=never") == "refused");
  CHECK(sync_of("&sync-policy=panic") == "refused");
  CHECK(sync_of("&sync-replicas=some") == "refused");
}

TEST_CASE("writes that are refused fail, and nothing else") {
  Synced at;
  Sqlite other(replicated(at.path));
  set_refusing_writes(true);
  take_log();
  at.db.run("INSERT INTO t VALUES (4)");
  CHECK(at.db.extended() == SQLITE_IOERR_FSYNC);
  const auto log = take_log();
  CHECK(std::any_of(log.begin(), log.end(), [](const std::string& line) {
    return line.find("sync-policy: fail") != std::string::npos;
  }));
  CHECK(at.db.must("SELECT count(*) FROM t; PRAGMA wal_checkpoint(TRUNCATE)").starts_with("3\n0|"));
  CHECK(waits().empty());
  other.must("INSERT INTO t VALUES (5)");
  set_refusing_writes(false);
  at.db.must("INSERT INTO t VALUES (4)");
  CHECK(waits() == "app.db 1:wr ");
  CHECK(at.db.must("SELECT count(*) FROM t") == "5\n");
}
