// Stores and disks that are not there for a time. The application sees nothing of it.

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include <doctest/doctest.h>

#include "support.h"

using namespace sqlstream::testing;
namespace fs = std::filesystem;

namespace {

bool comes_to_pass(const auto& condition) {
  for (int i = 0; i < 600; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return false;
}

}  // namespace

TEST_CASE("a store that is away from the beginning") {
  const Replicated at;
  std::ofstream(at.replica()) << "a file in the folder's place";
  Writer db(at.uri());
  db.must("PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
  for (int i = 0; i < 20; ++i) db.must("INSERT INTO t VALUES (randomblob(2000))");
  CHECK(db.must("SELECT sqlstream_wait(10)") == "0\n");
  CHECK(comes_to_pass([&] {
    return db.must("SELECT sqlstream_status()").find(R"("error":)") != std::string::npos;
  }));
  db.must("PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (1)");
  fs::remove(at.replica());
  db.shipped();
  at.expect_restored();
  CHECK(db.must("SELECT sqlstream_status()").find(R"("error":)") == std::string::npos);
}

TEST_CASE("a store that goes away and comes back with what it had: the same generation") {
  const Replicated at;
  Writer db(at.uri());
  db.must("PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
  db.shipped();
  const auto generation = [&] {
    const std::string status = db.must("SELECT sqlstream_status()");
    const std::string key = R"("generation":")";
    return status.substr(status.find(key) + key.size(), 16);
  };
  const std::string before = generation();
  fs::rename(at.replica(), at.file("away"));
  std::ofstream(at.replica()) << "a file in the folder's place";
  for (int i = 0; i < 20; ++i) {
    db.must("INSERT INTO t VALUES (randomblob(2000)); PRAGMA wal_checkpoint(RESTART)");
  }
  CHECK(db.must("SELECT sqlstream_wait(10)") == "0\n");
  fs::remove(at.replica());
  fs::rename(at.file("away"), at.replica());
  db.must("INSERT INTO t VALUES (1)");
  db.shipped();
  at.expect_restored();
  CHECK(generation() == before);
}

TEST_CASE("a replica that was deleted while no program ran is begun anew") {
  const Replicated at;
  CHECK(wait_for(start_role("close", {at.uri()})) == 0);
  fs::remove_all(at.replica());
  CHECK(wait_for(start_role("close", {at.uri()})) == 0);
  at.expect_restored();
}

TEST_CASE("a replica that is new when the outbox has lost its generation's beginning") {
  const Replicated at;
  CHECK(wait_for(start_role("large", {at.uri()})) == 0);
  at.expect_restored();
  fs::remove_all(at.replica());
  CHECK(wait_for(start_role("close", {at.uri()})) == 0);
  Writer db(at.uri());
  CHECK(comes_to_pass([&] { return db.must("SELECT sqlstream_wait(100)") == "1\n"; }));
  at.expect_restored();
}

TEST_CASE("an outbox that cannot be made is the application's business no more than a status") {
  const Replicated at;
  std::ofstream(at.file(".app.db-sqlstream")) << "a file in the folder's place";
  Writer db(at.uri());
  db.must("PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
  for (int i = 0; i < 10; ++i) db.must("INSERT INTO t VALUES (1); PRAGMA wal_checkpoint(TRUNCATE)");
  CHECK(db.must("SELECT sqlstream_wait(10)") == "0\n");
  CHECK(db.must("SELECT sqlstream_status()").find("outbox") != std::string::npos);
  fs::remove(at.file(".app.db-sqlstream"));
  CHECK(comes_to_pass([&] {
    db.must("INSERT INTO t VALUES (1)");
    return db.must("SELECT sqlstream_wait(100)") == "1\n";
  }));
  db.shipped();
  at.expect_restored();
}

TEST_CASE("a disk that is full for the outbox is not full for the application") {
  const Replicated at;
  CHECK(wait_for(start_role("limited", {at.uri()})) == 0);
  Writer db(at.uri());
  CHECK(db.must("SELECT count(*) FROM t") == "100\n");
  db.must("INSERT INTO t VALUES (101, 1)");
  CHECK(comes_to_pass([&] { return db.must("SELECT sqlstream_wait(100)") == "1\n"; }));
  at.expect_restored();
}
