// A closed database lingers for a moment, as the background's. Who opens it again then may want
// another replica, or find that all of it was deleted meanwhile.

#include <filesystem>
#include <fstream>
#include <string>

#include <doctest/doctest.h>

#include "support.h"

using namespace sqlstream::testing;
namespace fs = std::filesystem;

namespace {

void commit_and_close(const Replicated& at, bool ship) {
  Writer db(at.uri());
  db.must("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES (1)");
  if (ship) db.shipped();
}

}  // namespace

TEST_CASE("a database that is opened again with another replica is shipped there") {
  for (const bool away : {false, true}) {
    CAPTURE(away);
    Replicated at;
    if (away) std::ofstream(at.replica()) << "a file in the folder's place";
    commit_and_close(at, !away);
    at.set_replica("other");
    Writer db(at.uri());
    db.must("INSERT INTO t VALUES (2)");
    db.shipped();
    at.expect_restored();
  }
}

TEST_CASE("settings that nothing is to be written for take over what was not shipped") {
  Replicated at;
  std::ofstream(at.replica()) << "a file in the folder's place";
  commit_and_close(at, false);
  at.set_replica("other");
  Writer db(at.uri());
  CHECK(db.must("SELECT count(*) FROM t") == "1\n");
  db.shipped();
  at.expect_restored();
}

TEST_CASE("a database that was deleted with its outbox, and is created anew, is replicated") {
  for (int i = 0; i < 3; ++i) {
    CAPTURE(i);
    const Replicated at;
    commit_and_close(at, i == 0);
    fs::remove_all(at.file(".app.db-sqlstream"));
    for (const char* suffix : {"", "-wal", "-shm"}) fs::remove(at.path() + suffix);
    if (i == 2) fs::create_directory(at.file(".app.db-sqlstream"));
    commit_and_close(at, false);
    Writer db(at.uri());
    db.must("INSERT INTO t VALUES (2)");
    CHECK(fs::exists(at.file(".app.db-sqlstream/control")));
    db.shipped();
    at.expect_restored();
  }
}
