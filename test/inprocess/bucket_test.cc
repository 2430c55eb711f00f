// The whole engine over HTTPS to a real server, with threads that commit: for the sanitizers.

#define DOCTEST_CONFIG_IMPLEMENT
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <doctest/doctest.h>

#include "restore/restore.h"
#include "store/store.h"
#include "support.h"
#include "test/unit/store/run.h"
#include "test/unit/store/server.h"

using namespace sqlstream;
using namespace sqlstream::testing;

namespace {

using Db = std::unique_ptr<sqlite3, int (*)(sqlite3*)>;

test::Minio& server() {
  static test::Minio minio(true);
  return minio;
}

// Databases of a folder, each with a replica of its own in one bucket.
class Databases {
 public:
  explicit Databases(std::string bucket) : bucket_(std::move(bucket)) {
    server().make_bucket(bucket_);
  }
  std::string path(int number) const { return folder_.file(std::to_string(number) + ".db"); }
  std::string uri(int number, const std::string& more = "") const {
    return "file:" + path(number) + "?vfs=sqlstream" + more + "&replica=s3://" + bucket_ + '/' +
           std::to_string(number) + "%3Fendpoint%3D" + server().endpoint() +
           "%26region%3Dus-east-1%26skip-verify%3Dtrue%26sync-interval%3D20ms";
  }
  /// Restores the replica into a new file, and gives its path.
  std::string restore(int number) const {
    static int restored = 0;
    asio::io_context io(1);
    StoreSettings settings;
    settings.type = StoreSettings::Type::s3;
    settings.bucket = bucket_;
    settings.path = std::to_string(number);
    settings.endpoint = server().endpoint();
    settings.region = "us-east-1";
    settings.ca_file = server().ca_file();
    settings.access_key_id = test::Minio::kUser;
    settings.secret_access_key = test::Minio::kPassword;
    const auto store = make_store(settings, io.get_executor());
    RestoreOptions options;
    options.output = folder_.file("restored-" + std::to_string(++restored));
    asio::thread_pool workers(2);
    return test::run(io, sqlstream::restore(*store, options, workers, {})).output;
  }

 private:
  TempFolder folder_;
  std::string bucket_;
};

std::string rows(const std::string& path) {
  Sqlite db(path, "unix");
  CHECK(db.must("PRAGMA integrity_check") == "ok\n");
  return db.must("SELECT count(*) FROM t");
}

}  // namespace

TEST_CASE("what commits of many threads returned is in the bucket") {
  const Databases all("waiting");
  const std::string uri = all.uri(0, "&sync=600000");
  Writer first(uri);
  first.must("PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  expect_returned_commits(uri, [&] { return std::stoi(rows(all.restore(0))); });
}

TEST_CASE("threads that open, write and close databases of one bucket") {
  constexpr int kDatabases = 6;
  constexpr int kRounds = 10;
  const Databases all("many");
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  threads.reserve(kDatabases);
  for (int number = 0; number < kDatabases; ++number) {
    threads.emplace_back([&, number] {
      for (int round = 0; round < kRounds; ++round) {
        const Db db{open_writer(all.uri(number)), sqlite3_close};
        if (!db ||
            !works(db.get(),
                   "CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES (randomblob(3000));"
                   "PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES (1)")) {
          ++failures;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
  for (int number = 0; number < kDatabases; ++number) {
    Writer db(all.uri(number));
    db.shipped();
    CHECK(rows(all.restore(number)) == std::to_string(2 * kRounds) + '\n');
  }
}

int main(int argc, char** argv) {
  if (test::find_minio().empty()) {
    std::puts("skipped: no minio binary (SQLSTREAM_TEST_BIN)");
    return 77;
  }
  // Before there are threads.
  ::setenv("AWS_ACCESS_KEY_ID", test::Minio::kUser, 1);
  ::setenv("AWS_SECRET_ACCESS_KEY", test::Minio::kPassword, 1);
  return doctest::Context(argc, argv).run();
}
