#include "replicate/watcher.h"

#include <filesystem>
#include <fstream>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <doctest/doctest.h>

#include "test/unit/vfs/support.h"

using namespace sqlstream;
using sqlstream::testing::TempFolder;

namespace {

void write(const std::string& file, const std::string& text = "x") {
  std::ofstream(file, std::ios::app) << text;
}

// Who is told what.
class Listener {
 public:
  explicit Listener(Watcher& watcher)
      : subscription_(watcher.subscribe([this](Watcher::Change change) {
          (change == Watcher::Change::names ? names : contents) += 1;
        })) {}
  void watch(const std::vector<Watcher::Place>& places) { subscription_->watch(places); }
  void clear() { names = contents = 0; }

  int names = 0;
  int contents = 0;

 private:
  std::unique_ptr<Watcher::Subscription> subscription_;
};

class Watched {
 public:
  Watched() { asio::co_spawn(io_, watcher_.run(), asio::detached); }
  ~Watched() {
    watcher_.stop();
    io_.run();
  }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

  Watcher& watcher() { return watcher_; }
  /// Until everything that happened before was told: the last file written is this one's own.
  void settle() {
    Listener own(watcher_);
    write(folder_.file("settled"), "");
    own.watch({{folder_.file("settled")}});
    write(folder_.file("settled"));
    while (own.contents == 0) io_.run_one();
  }

 private:
  TempFolder folder_;
  asio::io_context io_{1};
  Watcher watcher_{io_.get_executor()};
};

}  // namespace

TEST_CASE("writes to a file are told, and nothing of others") {
  const TempFolder folder;
  write(folder.file("a"));
  write(folder.file("b"));
  Watched watched;
  Listener a(watched.watcher());
  Listener both(watched.watcher());
  a.watch({{folder.file("a")}, {folder.file("not-there")}});
  both.watch({{folder.file("a")}, {folder.file("b")}});

  write(folder.file("a"));
  watched.settle();
  CHECK(a.contents > 0);
  CHECK(both.contents > 0);
  a.clear();
  both.clear();

  write(folder.file("b"));
  write(folder.file("not-there"));
  watched.settle();
  CHECK(a.contents == 0);
  CHECK(both.contents > 0);
  CHECK(a.names + both.names == 0);
}

TEST_CASE("names in a folder are told when they come, go, or stand for another file") {
  const TempFolder folder;
  write(folder.file("other"));
  Watched watched;
  Listener some(watched.watcher());
  Listener all(watched.watcher());
  some.watch({{folder.file(""), true, {"app.db"}}});
  all.watch({{folder.file(""), true}});
  const auto told = [&] {
    watched.settle();
    const bool both = some.names > 0 && all.names > 0;
    some.clear();
    all.clear();
    return both;
  };

  write(folder.file("app.db"));
  CHECK(told());
  write(folder.file("app.db"));
  CHECK_FALSE(told());  // its content is not the folder's
  std::filesystem::rename(folder.file("other"), folder.file("app.db"));
  CHECK(told());
  std::filesystem::remove(folder.file("app.db"));
  CHECK(told());

  write(folder.file("third"));
  watched.settle();
  CHECK(some.names == 0);
  CHECK(all.names > 0);
}

TEST_CASE("what is not watched any more is not told") {
  const TempFolder folder;
  write(folder.file("a"));
  write(folder.file("b"));
  Watched watched;
  Listener stays(watched.watcher());
  stays.watch({{folder.file("a")}});
  {
    Listener goes(watched.watcher());
    goes.watch({{folder.file("a")}});
  }
  // The other one's watch of the same file is still there.
  write(folder.file("a"));
  watched.settle();
  CHECK(stays.contents > 0);
  stays.clear();
  stays.watch({{folder.file("b")}});
  write(folder.file("a"));
  watched.settle();
  CHECK(stays.contents == 0);
  write(folder.file("b"));
  watched.settle();
  CHECK(stays.contents > 0);
}
