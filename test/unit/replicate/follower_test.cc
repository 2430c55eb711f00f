#include "replicate/follower.h"

#include <filesystem>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_future.hpp>
#include <doctest/doctest.h>

#include "support.h"

using namespace sqlstream;
using namespace sqlstream::testing;

namespace {

// A follower that runs on the engine's threads until this ends it.
class Following {
 public:
  explicit Following(const std::string& path)
      : follower_({path, std::chrono::milliseconds(50), {}}, watcher_), ready_(follower_.ready()) {
    const auto executor = Engine::get().executor();
    watching_ = asio::co_spawn(executor, watcher_.run(), asio::use_future);
    following_ = asio::co_spawn(executor, follower_.run(), asio::use_future);
  }
  ~Following() { end(); }
  Following(const Following&) = delete;
  Following& operator=(const Following&) = delete;

  void wait_until_ready() { ready_.get(); }
  void end() {
    if (!following_.valid()) return;
    asio::post(Engine::get().executor(), [this] { follower_.stop(); });
    following_.get();
    asio::post(Engine::get().executor(), [this] { watcher_.stop(); });
    watching_.get();
  }

 private:
  Watcher watcher_{Engine::get().executor()};
  Follower follower_;
  std::future<void> ready_, watching_, following_;
};

// How many frames the application's WAL has, all of them committed.
std::uint32_t frames_of(Application& app) {
  const std::string row = app.checkpoint("PASSIVE");
  return static_cast<std::uint32_t>(std::stoul(row.substr(row.find('|') + 1)));
}

}  // namespace

TEST_CASE(
    "what is there is captured when it is ready, what comes as it comes, the rest at the end") {
  const Followed database;
  Application app(database.path());
  app.must("CREATE TABLE t(x)");
  Following following(database.path());
  following.wait_until_ready();
  const auto first = database.tail().last;
  CHECK(first.source.frame == frames_of(app));

  app.must("INSERT INTO t VALUES (1)");
  wait_until([&] { return database.tail().last.sequence > first.sequence; });
  for (int i = 0; i < 100; ++i) app.must("INSERT INTO t VALUES (randomblob(1000))");
  following.end();
  CHECK(database.tail().last.source.frame == frames_of(app));
}

TEST_CASE("a database is waited for, and so is its folder") {
  const Followed database("later/deeper");
  Following following(database.path());
  following.wait_until_ready();
  CHECK_FALSE(database.captured_any());
  std::filesystem::create_directories(database.file("later/deeper"));
  Application app(database.path());
  CHECK_FALSE(database.captured_any());  // no content yet
  app.must("CREATE TABLE t(x)");
  wait_until([&] { return database.captured_any(); });
  app.must("INSERT INTO t VALUES (1)");
  following.end();
  CHECK(database.tail().last.source.frame == frames_of(app));
}

TEST_CASE("a database that another program is busy with is tried again") {
  const Followed database;
  Sqlite plain("file:" + database.path(), "unix");
  plain.must("CREATE TABLE t(x)");
  plain.must("BEGIN EXCLUSIVE");  // in rollback mode: nobody can look at it
  Following following(database.path());
  following.wait_until_ready();
  CHECK_FALSE(database.captured_any());
  plain.must("COMMIT");
  wait_until([&] { return database.captured_any(); });
}

TEST_CASE("a file that takes the place of another is followed from then on") {
  const Followed database;
  Generation first;
  Following following(database.path());
  {
    Application app(database.path());
    app.must("CREATE TABLE t(x)");
    wait_until([&] { return database.captured_any(); });
    first = database.tail().generation;
  }
  {
    Application other(database.file("other.db"));
    other.must("CREATE TABLE another(x)");
    CHECK(other.checkpoint("TRUNCATE") == "0|0|0");
  }
  for (const char* suffix : {"-wal", "-shm"}) std::filesystem::remove(database.path() + suffix);
  std::filesystem::rename(database.file("other.db"), database.path());
  wait_until([&] { return database.tail().generation != first; });
  Application app(database.path());
  app.must("INSERT INTO another VALUES (1)");
  following.end();
  CHECK(database.tail().last.source.frame == frames_of(app));
}
