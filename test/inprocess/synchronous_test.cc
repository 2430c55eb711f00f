// Commits that wait for the replica, with threads, forks and the process's end in between.

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>

#include "support.h"

using namespace sqlstream::testing;
namespace fs = std::filesystem;

namespace {

using Db = std::unique_ptr<sqlite3, int (*)(sqlite3*)>;

Db open(const std::string& uri) {
  return {open_writer(uri), sqlite3_close};
}

std::string synchronous(const Replicated& at, const std::string& limit = "600000") {
  return at.uri() + "&sync=" + limit;
}

/// A replica that cannot be written, from now until the end of the block.
class Away {
 public:
  explicit Away(const Replicated& at) : replica_(at.replica()), kept_(at.file("away")) {
    fs::rename(replica_, kept_);
    std::ofstream(replica_) << "a file in the folder's place";
  }
  Away(const Away&) = delete;
  Away& operator=(const Away&) = delete;
  ~Away() {
    fs::remove(replica_);
    fs::rename(kept_, replica_);
  }

 private:
  std::string replica_;
  std::string kept_;
};

std::size_t segments(const Replicated& at) {
  std::size_t count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(at.replica())) {
    if (entry.path().string().ends_with(".wal.lz4")) ++count;
  }
  return count;
}

bool has_rows(const std::string& path, const std::string& rows) {
  for (int i = 0; i < 6000; ++i) {
    if (Sqlite(path, "unix").run("SELECT count(*) FROM t") == rows) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

}  // namespace

TEST_CASE("what commits of many threads returned is in the replica") {
  const Replicated at;
  Writer first(synchronous(at));
  first.must("CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  expect_returned_commits(synchronous(at), [&] {
    Sqlite copy(at.restore(), "unix");
    return std::stoi(copy.must("SELECT count(*) FROM t"));
  });
  at.expect_restored();
  CHECK(segments(at) > 0);
}

TEST_CASE("threads that wait at once share one upload") {
  const Replicated at;
  Writer first(synchronous(at));
  first.must("CREATE TABLE t(x)");
  first.must("INSERT INTO t VALUES (0)");
  const std::size_t before = segments(at);
  constexpr int kThreads = 16;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  std::atomic<int> returned{0};
  {
    const Away away(at);
    for (int number = 0; number < kThreads; ++number) {
      threads.emplace_back([&] {
        const Db db = open(synchronous(at));
        if (db && works(db.get(), "INSERT INTO t VALUES (1)")) ++returned;
      });
    }
    CHECK(has_rows(at.path(), "17\n"));
    CHECK(returned == 0);
  }
  for (auto& thread : threads) thread.join();
  CHECK(returned == kThreads);
  // What was tried while the store was away holds what there was then; all else is one object.
  CHECK(segments(at) - before <= 3);
  at.expect_restored();
}

TEST_CASE("threads wait over a store that is away now and then, and miss nothing") {
  const Replicated at;
  Writer first(synchronous(at));
  first.must("CREATE TABLE t(x)");
  constexpr int kThreads = 8;
  std::atomic<int> failures{0};
  std::atomic<int> returned{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int number = 0; number < kThreads; ++number) {
    threads.emplace_back([&] {
      const Db db = open(synchronous(at));
      while (db && !stop) {
        if (works(db.get(), "INSERT INTO t VALUES (1)")) {
          ++returned;
        } else {
          ++failures;
        }
      }
      if (!db) ++failures;
    });
  }
  for (int round = 0; round < 8; ++round) {
    const int before = returned;
    {
      const Away away(at);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    // Each thread's first commit behind it, and more.
    while (failures == 0 && returned < before + 4 * kThreads) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    const int least = returned;
    Sqlite copy(at.restore(), "unix");
    CHECK(std::stoi(copy.must("SELECT count(*) FROM t")) >= least);
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
  CHECK(Sqlite(at.restore(), "unix").must("SELECT count(*) FROM t") ==
        std::to_string(returned) + "\n");
  at.expect_restored();
}

TEST_CASE("a wait in vain is one wait; commits wait again when the replica has caught up") {
  const Replicated at;
  Writer db(synchronous(at));
  db.must("CREATE TABLE t(x); PRAGMA sqlstream_sync=100");
  const auto state_is = [&](const char* state) {
    return db.must("SELECT sqlstream_status()").find(state) != std::string::npos;
  };
  CHECK(state_is("\"state\":\"synchronous\""));
  {
    const Away away(at);
    for (int i = 0; i < 50; ++i) db.must("INSERT INTO t VALUES (1)");
    CHECK(state_is("\"state\":\"degraded\""));
  }
  for (int i = 0; i < 600 && !state_is("\"state\":\"synchronous\""); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  CHECK(state_is("\"state\":\"synchronous\""));
  db.must("PRAGMA sqlstream_sync=600000; INSERT INTO t VALUES (2)");
  CHECK(Sqlite(at.restore(), "unix").must("SELECT count(*) FROM t") == "51\n");
}

TEST_CASE("a process that ends does not wait for the commits of its threads") {
  const Replicated at;
  CHECK(wait_for(start_role("close", {at.uri()})) == 0);
  const Away away(at);
  CHECK(wait_for(start_role("end-waiting", {synchronous(at), at.path()})) == 0);
}

TEST_CASE("a fork while a commit waits: the child has nothing to wait for" *
          doctest::skip(kSanitized)) {
  const Replicated at;
  CHECK(wait_for(start_role("close", {at.uri()})) == 0);
  const Away away(at);
  CHECK(wait_for(start_role("fork-waiting", {synchronous(at), at.path()})) == 0);
}
