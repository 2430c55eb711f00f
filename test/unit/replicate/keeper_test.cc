#include "replicate/keeper.h"

#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>

#include "support.h"

using namespace sqlstream;
using namespace sqlstream::testing;

namespace {

constexpr Keeper::Limits kFar{1000, 10000};

WalState look(Keeper& keeper) {
  const auto state = keeper.look();
  REQUIRE(state);
  return *state;
}

// All that is committed there now was captured.
void check_captured(const Followed& database, Keeper& keeper) {
  const WalState state = look(keeper);
  const auto tail = database.tail();
  CHECK(tail.last.source.salt == state.salt);
  CHECK(tail.last.source.frame == state.frames);
}

std::string frames_of(Keeper& keeper) {
  return std::to_string(look(keeper).frames);
}

}  // namespace

TEST_CASE("there is nothing to keep before there is content") {
  const Followed database;
  CHECK(Keeper::open(database.path(), kFar) == nullptr);
  std::ofstream(database.path()).close();
  CHECK(Keeper::open(database.path(), kFar) == nullptr);
}

TEST_CASE("a database in rollback mode is switched to WAL") {
  const Followed database;
  Sqlite plain("file:" + database.path(), "unix");
  plain.must("CREATE TABLE t(x)");
  const auto keeper = Keeper::open(database.path(), kFar);
  REQUIRE(keeper);
  plain.must("SELECT * FROM t");  // looks at the file anew
  CHECK(plain.must("PRAGMA journal_mode") == "wal\n");
}

TEST_CASE("another program that holds it is told from what will not pass by itself") {
  const Followed database;
  Sqlite plain("file:" + database.path(), "unix");
  plain.must("CREATE TABLE t(x)");
  for (const char* holding : {"BEGIN; SELECT * FROM t", "BEGIN EXCLUSIVE"}) {
    plain.must(holding);
    CHECK_THROWS_AS(Keeper::open(database.path(), kFar), Busy);
    plain.must("COMMIT");
  }
  CHECK(Keeper::open(database.path(), kFar));
  const Followed none;
  std::ofstream(none.path()) << std::string(8192, 'x');
  try {
    Keeper::open(none.path(), kFar);
    FAIL("it is no database");
  } catch (const Error& e) {
    CHECK(dynamic_cast<const Busy*>(&e) == nullptr);
  }
}

TEST_CASE("what was not captured cannot leave the WAL; a step lets go of the rest") {
  const Followed database;
  Application app(database.path());
  app.must("CREATE TABLE t(x)");
  const auto keeper = Keeper::open(database.path(), kFar);
  REQUIRE(keeper);
  REQUIRE(keeper->step());
  check_captured(database, *keeper);
  const std::string before = frames_of(*keeper);

  app.must("INSERT INTO t VALUES (randomblob(9000))");
  const std::string after = frames_of(*keeper);
  REQUIRE(before != after);
  CHECK(keeper->has_news(look(*keeper)));
  CHECK(std::to_string(keeper->behind(look(*keeper))) ==
        std::to_string(std::stoi(after) - std::stoi(before)));
  // Neither into the file, nor may the WAL begin anew.
  CHECK(app.checkpoint("PASSIVE") == "0|" + after + '|' + before);
  CHECK(app.checkpoint("TRUNCATE").starts_with("1|"));

  REQUIRE(keeper->step());
  check_captured(database, *keeper);
  CHECK(keeper->behind(look(*keeper)) == 0);
  CHECK(app.checkpoint("PASSIVE") == "0|" + after + '|' + after);
  // All is in the file: that is news, and the step behind it gives the WAL free.
  CHECK(keeper->has_news(look(*keeper)));
  REQUIRE(keeper->step());
  CHECK(app.checkpoint("TRUNCATE") == "0|0|0");
  app.must("INSERT INTO t VALUES (1)");
  REQUIRE(keeper->step());
  check_captured(database, *keeper);
}

TEST_CASE("over the soft limit a step checkpoints, and the next writer starts the WAL anew") {
  const Followed database;
  Application app(database.path());
  app.must("CREATE TABLE t(x)");
  for (const bool over : {false, true}) {
    const auto keeper = Keeper::open(database.path(), {over ? 10U : 1000U, 10000});
    REQUIRE(keeper);
    REQUIRE(keeper->step());
    for (int i = 0; i < 20; ++i) app.must("INSERT INTO t VALUES (1)");
    const WalState before = look(*keeper);
    REQUIRE(before.frames > 10);
    REQUIRE(keeper->step());
    CHECK((look(*keeper).backfilled == before.frames) == over);
    app.must("INSERT INTO t VALUES (2)");
    CHECK((look(*keeper).salt != before.salt) == over);
    REQUIRE(keeper->step());
    check_captured(database, *keeper);
  }
}

TEST_CASE("over the hard limit a reader of the application's is not fought") {
  const Followed database;
  Application app(database.path());
  app.must("CREATE TABLE t(x)");
  const auto keeper = Keeper::open(database.path(), {5, 10});
  REQUIRE(keeper);
  Application reader(database.path());
  reader.must("BEGIN; SELECT count(*) FROM t");
  for (int i = 0; i < 20; ++i) {
    app.must("INSERT INTO t VALUES (1)");
    REQUIRE(keeper->step());
    check_captured(database, *keeper);
  }
  const WalState held = look(*keeper);
  CHECK(held.frames >= 20);
  reader.must("COMMIT");
  REQUIRE(keeper->step());
  app.must("INSERT INTO t VALUES (2)");
  CHECK(look(*keeper).salt != held.salt);
  REQUIRE(keeper->step());
  check_captured(database, *keeper);
}

TEST_CASE("a transaction that is being written is seen before it commits") {
  const Followed database;
  Application app(database.path());
  app.must("CREATE TABLE t(x)");
  const auto keeper = Keeper::open(database.path(), kFar);
  REQUIRE(keeper);
  CHECK_FALSE(look(*keeper).under_way);
  app.must("PRAGMA cache_size=1");
  app.must("BEGIN");
  for (int i = 0; i < 50; ++i) app.must("INSERT INTO t VALUES (randomblob(5000))");
  CHECK(look(*keeper).under_way);
  app.must("COMMIT");
  CHECK_FALSE(look(*keeper).under_way);
}

TEST_CASE("so is the first one of a WAL") {
  const Followed database;
  Application app(database.path());
  app.must("CREATE TABLE t(x)");
  app.checkpoint("TRUNCATE");
  const auto keeper = Keeper::open(database.path(), kFar);
  REQUIRE(keeper);
  CHECK(look(*keeper).frames == 0);
  CHECK_FALSE(look(*keeper).under_way);
  // Whoever did not do the checkpoint chooses a new salt.
  Application other(database.path());
  other.must("PRAGMA cache_size=1");
  other.must("BEGIN");
  for (int i = 0; i < 50; ++i) other.must("INSERT INTO t VALUES (randomblob(5000))");
  CHECK(look(*keeper).frames == 0);
  CHECK(look(*keeper).under_way);
  other.must("COMMIT");
  CHECK_FALSE(look(*keeper).under_way);
}

TEST_CASE("another file in its place is noticed, and what was committed is captured at the end") {
  const Followed database;
  std::uint32_t frames = 0;
  {
    Application app(database.path());
    app.must("CREATE TABLE t(x)");
    auto keeper = Keeper::open(database.path(), kFar);
    REQUIRE(keeper);
    CHECK(keeper->is_current());
    look(*keeper);
    wait_until([&] { return database.captured_any(); });
    app.must("INSERT INTO t VALUES (1)");
    frames = look(*keeper).frames;
    std::filesystem::copy_file(database.path(), database.file("other"));
    std::filesystem::rename(database.file("other"), database.path());
    CHECK_FALSE(keeper->is_current());
  }
  CHECK(database.tail().last.source.frame == frames);
}
