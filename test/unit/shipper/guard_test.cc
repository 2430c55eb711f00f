#include "shipper/guard.h"

#include <boost/asio/io_context.hpp>
#include <doctest/doctest.h>

#include "base/error.h"
#include "base/log.h"
#include "format/names.h"
#include "test/unit/config/temp_folder.h"
#include "test/unit/store/run.h"

using namespace sqlstream;
using namespace std::chrono_literals;

namespace {

const Time kNow = *parse_rfc3339("2026-03-01T12:00:00Z");

LastWrite written(const std::string& host, const std::string& database, Time time) {
  LastWrite last{time, {}};
  last.metadata.host = host;
  last.metadata.database = database;
  last.metadata.last_commit = time - 1h;
  return last;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A replica in a folder, with objects of a time.
class Replica {
 public:
  Replica() {
    settings_.name = "file";
    settings_.store.path = folder_.path();
    store_ = make_store(settings_.store, io_.get_executor());
  }

  void put(const std::string& key, const std::string& host, Time time) {
    Metadata metadata = written(host, "/srv/app.db", time).metadata;
    test::run(io_, store_->put(key, encode_metadata(metadata), {false, time}));
  }
  void put_damaged(const std::string& key, Time time) {
    Bytes object = encode_metadata({});
    object[20] ^= 1;
    test::run(io_, store_->put(key, std::move(object), {false, time}));
  }
  Writes writes() { return test::run(io_, find_last_write(*store_)); }
  std::optional<LastWrite> last() { return writes().last; }
  /// What the guard throws, else what it logs.
  std::string guard(const Writer& self, bool exclusive) {
    settings_.exclusive = exclusive;
    std::string said;
    log::set_sink([&](log::Level, std::string_view line) { said += line; });
    try {
      test::run(io_, guard_replica(*store_, settings_, self));
    } catch (const Error& error) {
      said = std::string("thrown: ") + error.what();
    }
    log::set_sink({});
    return said;
  }

 private:
  config::testing::TempFolder folder_;
  asio::io_context io_{1};
  ReplicaSettings settings_;
  std::unique_ptr<Store> store_;
};

}  // namespace

TEST_CASE("another writer is another path here, or another host within the retention") {
  const Writer self{"laptop", "/srv/app.db"};
  const auto by = [&](const std::string& host, const std::string& database, Time time) {
    return another_writer(written(host, database, time), self, kNow, 24h);
  };
  CHECK_FALSE(by("laptop", "/srv/app.db", kNow - 1h));
  REQUIRE(by("production", "/srv/app.db", kNow - 1h));
  CHECK(*by("production", "/srv/app.db", kNow - 1h) ==
        "was last written at 2026-03-01T11:00:00Z by host production from /srv/app.db, and this is "
        "host laptop from /srv/app.db");
  CHECK(by("laptop", "/srv/other.db", kNow - 1h));
  CHECK(by("production", "/srv/app.db", kNow - 24h));
  CHECK_FALSE(by("production", "/srv/app.db", kNow - 24h - 1ns));
  // On one host a database does not take over from another one, which may only be quiet.
  CHECK(by("laptop", "/srv/other.db", kNow - 999h));
  CHECK_FALSE(by("production", "/srv/other.db", kNow - 25h));
  // A clock that is ahead is no reason to be silent.
  CHECK(by("production", "/srv/app.db", kNow + 1h));
  // What was left out of the metadata may be anything.
  CHECK_FALSE(by("laptop", "", kNow));
  CHECK_FALSE(by("", "/srv/other.db", kNow - 25h));
  CHECK_FALSE(by("", "", kNow));
  REQUIRE(by("production", "", kNow));
  // Where nothing is deleted, it is never too long ago.
  CHECK(another_writer(written("production", "", kNow - 9000h), self, kNow, 0s));
  CHECK(contains(*by("production", "", kNow), "by host production from an unknown path"));
}

TEST_CASE("the commit time counts where the store's time is older") {
  LastWrite last = written("production", "/srv/app.db", kNow - 48h);
  last.metadata.last_commit = kNow - 2h;
  CHECK(another_writer(last, {"laptop", "/srv/app.db"}, kNow, 24h));
}

TEST_CASE("the last write is the newest object of all generations") {
  Replica replica;
  CHECK_FALSE(replica.last());
  const Generation first{1};
  const Generation second{2};
  replica.put(names::snapshot_key(second, 0), "a", kNow - 3h);
  replica.put(names::segment_key(second, {0, 0}), "b", kNow - 1h);
  replica.put(names::snapshot_key(first, 0), "c", kNow - 2h);
  REQUIRE(replica.last());
  CHECK(replica.last()->metadata.host == "b");
  CHECK(replica.last()->time == kNow - 1h);
  replica.put(names::snapshot_key(first, 1), "d", kNow);
  CHECK(replica.last()->metadata.host == "d");
}

TEST_CASE("the guard warns, and refuses where the replica is exclusive") {
  Replica replica;
  const Writer self{"laptop", "/home/me/app.db"};
  CHECK(replica.guard(self, true).empty());
  replica.put(names::snapshot_key({1}, 0), "production", now());
  const std::string warning = replica.guard(self, false);
  for (const char* part : {"production", "/srv/app.db", "laptop", "/home/me/app.db", "WARN"}) {
    CHECK(contains(warning, part));
  }
  const std::string refusal = replica.guard(self, true);
  CHECK(contains(refusal, "thrown: not replicating: the replica file://"));
  CHECK(contains(refusal, "production"));
  CHECK(replica.guard({"production", "/srv/app.db"}, true).empty());
  replica.put(names::segment_key({1}, {0, 0}), "laptop", now() + 1s);
  CHECK(replica.guard({"laptop", "/srv/app.db"}, true).empty());
}

TEST_CASE("where the newest object is damaged, those before it tell") {
  Replica replica;
  const Generation first{1};
  const Generation second{2};
  replica.put_damaged(names::snapshot_key(second, 0), kNow - 3h);
  CHECK_FALSE(replica.last());
  CHECK(replica.writes().damaged == names::snapshot_key(second, 0));
  replica.put(names::snapshot_key(first, 0), "a", kNow - 5h);
  replica.put(names::segment_key(first, {0, 0}), "b", kNow - 4h);
  replica.put_damaged(names::segment_key(second, {0, 0}), kNow - 2h);
  REQUIRE(replica.last());
  CHECK(replica.last()->metadata.host == "b");
  CHECK(replica.last()->time == kNow - 4h);
  CHECK(replica.writes().damaged == names::segment_key(second, {0, 0}));
  replica.put(names::segment_key(second, {0, 1}), "c", kNow - 1h);
  CHECK(replica.last()->metadata.host == "c");
  CHECK(replica.writes().damaged.empty());
}

TEST_CASE("a damaged object is named, and hides no other writer") {
  Replica replica;
  const Writer self{"laptop", "/srv/app.db"};
  const std::string damaged = names::segment_key({1}, {0, 0});
  replica.put_damaged(damaged, now());
  for (const bool exclusive : {false, true}) {
    const std::string said = replica.guard(self, exclusive);
    for (const char* part : {damaged.c_str(), "is damaged", "WARN"}) CHECK(contains(said, part));
    CHECK_FALSE(contains(said, "thrown"));
  }
  replica.put(names::snapshot_key({1}, 0), "production", now() - 1h);
  const std::string warning = replica.guard(self, false);
  for (const auto& part : {damaged, std::string("production")}) CHECK(contains(warning, part));
  CHECK(contains(replica.guard(self, true), "thrown: not replicating: the replica file://"));
}
