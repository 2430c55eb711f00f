// A store that fails, behind the store's interface: each call of it once, and at random.

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <doctest/doctest.h>

#include "restore/restore.h"
#include "shipper/engine.h"
#include "store/fault_store.h"
#include "support.h"
#include "test/unit/store/run.h"

using namespace sqlstream;
using namespace sqlstream::testing;

namespace {

using Operation = FaultStore::Operation;
using When = FaultStore::When;
using Kind = StoreError::Kind;

/// The stores of the databases that are opened while this lives, each once.
class Faulty {
 public:
  /// `prepare`: called with each, before anything is asked of it.
  explicit Faulty(const std::function<void(FaultStore&)>& prepare = [](FaultStore&) {}) {
    wrap_stores(
        [this, prepare](std::unique_ptr<Store> store, const asio::any_io_executor& executor) {
          auto wrapped = std::make_unique<FaultStore>(std::move(store), executor);
          prepare(*wrapped);
          stores_[wrapped->url()] = wrapped.get();
          return wrapped;
        });
  }
  Faulty(const Faulty&) = delete;
  Faulty& operator=(const Faulty&) = delete;
  ~Faulty() { wrap_stores({}); }

  /// Does something with the store of an open database, where it lives. On any thread.
  template <class Work>
  auto on_store(const Replicated& at, Work work) {
    using Result = decltype(work(std::declval<FaultStore&>()));
    std::packaged_task<Result()> task([&] { return work(*stores_.at("file://" + at.replica())); });
    asio::post(Engine::get().executor(), [&] { task(); });
    return task.get_future().get();
  }

 private:
  std::map<std::string, FaultStore*> stores_;  // used where they live
};

FaultStore::Fault random_fault(std::mt19937_64& random) {
  constexpr Operation kOperations[] = {Operation::put, Operation::put, Operation::upload,
                                       Operation::get, Operation::list};
  constexpr Kind kKinds[] = {Kind::unreachable, Kind::unavailable, Kind::denied,   Kind::tls,
                             Kind::no_space,    Kind::rejected,    Kind::no_bucket};
  FaultStore::Fault fault;
  fault.operation = kOperations[random() % std::size(kOperations)];
  fault.when = random() % 2 == 0 ? When::before : When::after;
  fault.kind = kKinds[random() % std::size(kKinds)];
  fault.skip = static_cast<int>(random() % 3);
  return fault;
}

std::string generation(Writer& db) {
  const std::string status = db.must("SELECT sqlstream_status()");
  const std::string key = R"("generation":")";
  return status.substr(status.find(key) + key.size(), 16);
}

/// What a run goes on to until it has come about behind the fault.
enum class Until { compaction, deletion };

/// A call that fails, in a run of its own.
struct Point {
  Until until = Until::compaction;
  FaultStore::Fault fault;
};

/// With SQLSTREAM_LONG all, else one of each operation and way to fail.
std::vector<Point> points() {
  struct Calls {
    Until until;
    Operation operation;
    int count;
    std::vector<When> how;
  };
  const Calls calls[] = {{Until::compaction, Operation::put, 6, {When::before, When::after}},
                         {Until::compaction, Operation::upload, 3, {When::before, When::after}},
                         {Until::compaction, Operation::get, 12, {When::before, When::cut}},
                         {Until::compaction, Operation::list, 20, {When::before}},
                         {Until::deletion, Operation::upload, 4, {When::before, When::after}},
                         {Until::deletion, Operation::list, 25, {When::before}},
                         {Until::deletion, Operation::remove, 2, {When::before, When::after}}};
  const bool every = std::getenv("SQLSTREAM_LONG") != nullptr;
  std::vector<Point> points;
  for (const auto& [until, operation, count, how] : calls) {
    for (const When when : how) {
      std::vector<Kind> kinds = {Kind::unavailable, Kind::denied, Kind::unreachable};
      if (!every) kinds = {kinds[points.size() % kinds.size()]};
      if (when == When::cut) kinds = {Kind::unavailable};  // not used
      for (int call = every ? 0 : count / 2; call < count; ++call) {
        for (const Kind kind : kinds) {
          points.push_back(
              {until, {.operation = operation, .when = when, .kind = kind, .skip = call}});
        }
        if (!every) break;
      }
    }
  }
  return points;
}

std::string describe(const FaultStore::Fault& fault) {
  static constexpr const char* kOperations[] = {"put", "upload", "get", "list", "remove"};
  static constexpr const char* kWhen[] = {"before", "after", "cut"};
  const std::string operation = kOperations[static_cast<int>(fault.operation)];
  return operation + ' ' + std::to_string(fault.skip) + ' ' + kWhen[static_cast<int>(fault.when)] +
         ", kind " + std::to_string(static_cast<int>(fault.kind));
}

/// How often that has come about.
int times(Until until, const FaultStore& store) {
  if (until == Until::deletion) return store.count(Operation::remove);
  const auto& contents = store.contents();
  return static_cast<int>(std::count_if(contents.begin(), contents.end(), [](const auto& object) {
    return object.first.find("/compacted/") != std::string::npos;
  }));
}

/// Commits one by one until the point has been passed. What went wrong; empty: nothing.
std::string pass(const Point& point, const Replicated& at, Faulty& faulty) {
  const std::string often =
      "%26compaction%3Dfalse%26snapshot-interval%3D300ms%26retention%3D300ms"
      "%26retention-check-interval%3D300ms";
  Sqlite db(at.uri() + (point.until == Until::deletion ? often : ""));
  const auto does = [&](const std::string& sql) {
    db.run(sql);
    return db.result() == SQLITE_OK;
  };
  bool right = does(
      "PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, x);"
      "SELECT sqlstream_wait(60000)");
  std::optional<int> when_struck;
  const auto passed = [&](const FaultStore& store) {
    const int now = times(point.until, store);
    if (!when_struck && store.struck() == 2) when_struck = now;
    return when_struck && now > *when_struck;
  };
  const auto hang = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (right && !faulty.on_store(at, passed)) {
    if (std::chrono::steady_clock::now() > hang) return "it does not go on";
    // No longer: there is to be more than what is tried again.
    right = does("INSERT INTO t VALUES (NULL, zeroblob(1000)); SELECT sqlstream_wait(100)");
    // What is beside the segments is tried again after ten seconds, and lists what came till then.
    if (when_struck) std::this_thread::sleep_for(std::chrono::milliseconds(150));
  }
  if (!right || db.run("SELECT sqlstream_wait(60000)") != "1\n") {
    return db.run("SELECT sqlstream_status()") + sqlite3_errmsg(db.get());
  }
  const auto contents = faulty.on_store(at, [](FaultStore& store) {
    // Nor is more written later: who closed it goes on with it for a while.
    for (const auto operation : {Operation::put, Operation::upload, Operation::remove}) {
      store.add({.operation = operation, .times = -1});
    }
    return store.contents();
  });
  for (const auto& [key, bodies] : contents) {
    if (bodies.size() > 1) return key + " was written twice with other content";
  }
  const std::filesystem::directory_iterator generations(at.replica() + "/generations");
  return std::distance(begin(generations), end(generations)) == 1 ? "" : "another generation";
}

}  // namespace

TEST_CASE("each call fails once: nothing is lost or written twice, and all goes on by itself") {
  const std::vector<Point> all = points();
  // At the same time, since they wait most of it: what failed is tried again after a while.
  constexpr std::size_t kAtOnce = 24;
  for (std::size_t first = 0; first < all.size(); first += kAtOnce) {
    const std::size_t count = std::min(kAtOnce, all.size() - first);
    const std::vector<Replicated> places(count);
    std::map<std::string, FaultStore::Fault> planned;
    for (std::size_t i = 0; i < count; ++i) {
      planned["file://" + places[i].replica()] = all[first + i].fault;
    }
    std::vector<std::string> wrong(count);
    {
      Faulty faulty([&](FaultStore& store) {
        const FaultStore::Fault& fault = planned.at(store.url());
        store.set_page_size(fault.operation == Operation::list ? 1 : 0);
        store.add(fault);
        // So that where the replica ends is asked in each run.
        store.add({.when = When::after, .key_part = "/wal/", .skip = 3});
      });
      register_shim();
      std::vector<std::thread> threads;
      for (std::size_t i = 0; i < count; ++i) {
        threads.emplace_back([&, i] { wrong[i] = pass(all[first + i], places[i], faulty); });
      }
      for (auto& thread : threads) thread.join();
    }
    for (std::size_t i = 0; i < count; ++i) {
      INFO(describe(all[first + i].fault));
      CHECK(wrong[i] == "");
      places[i].expect_restored();
    }
  }
}

TEST_CASE("a restore of which a call fails tells so, and leaves nothing; or it is right") {
  const Replicated at;
  Writer db(at.uri());
  db.must("PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  db.shipped();
  for (int i = 0; i < 5; ++i) {
    db.must("INSERT INTO t VALUES (NULL, zeroblob(1000))");
    db.shipped();
  }
  db.close();
  at.expect_restored();
  const std::string right = read_file(at.restore());

  asio::io_context io(1);
  asio::thread_pool workers(2);
  StoreSettings settings;
  settings.path = at.replica();
  FaultStore store(make_store(settings, io.get_executor()), io.get_executor());
  store.set_page_size(1);
  const std::string output = at.file("output");
  FaultStore::Fault fault;
  int failed = 0;
  // True where there are so many calls.
  const auto restore_with = [&] {
    INFO(describe(fault));
    store.clear();
    store.add(fault);
    const int before = store.count(fault.operation);
    try {
      test::run(io, sqlstream::restore(store, {.output = output, .quiet = true}, workers, {}));
      const bool same = read_file(output) == right;
      CHECK(same);
      std::filesystem::remove(output);
    } catch (const Error&) {
      ++failed;
    }
    CHECK_FALSE(std::filesystem::exists(output));
    return store.count(fault.operation) - before > fault.skip;
  };
  for (const auto& [operation, when] : {std::pair{Operation::get, When::before},
                                        {Operation::get, When::cut},
                                        {Operation::list, When::before}}) {
    fault = {.operation = operation, .when = when};
    while (restore_with()) ++fault.skip;
    CHECK(fault.skip > 4);
  }
  CHECK(failed > 10);
}

TEST_CASE("refusals and lost answers at random: nothing is lost, and the generation goes on") {
  const Replicated at;
  std::mt19937_64 random(test_seed());
  auto faulty = std::make_unique<Faulty>();
  Writer db(at.uri());
  db.must("PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  db.shipped();
  const std::string before = generation(db);
  int struck = 0;
  for (int round = 0; round < 12; ++round) {
    faulty->on_store(at, [&](FaultStore& store) {
      store.set_latency(std::chrono::milliseconds(random() % 20));
      for (int i = 0; i < 3; ++i) store.add(random_fault(random));
    });
    for (int i = 0; i < 30; ++i) {
      db.must("INSERT OR REPLACE INTO t VALUES (" + std::to_string(random() % 100) +
              ", randomblob(" + std::to_string(random() % 9000) + "))");
      if (random() % 20 == 0) db.must("PRAGMA wal_checkpoint(TRUNCATE)");
      if (random() % 10 == 0) db.must("SELECT sqlstream_wait(30)");
    }
    const auto status = db.must("SELECT sqlstream_status()");
    if (status.find("injected fault") != std::string::npos) ++struck;
    if (round % 3 == 2) {
      faulty->on_store(at, [](FaultStore& store) {
        store.clear();
        store.set_latency(std::chrono::milliseconds(0));
      });
      db.shipped();
      CHECK(generation(db) == before);
    }
  }
  CHECK(struck > 2);
  db.close();
  faulty.reset();
  at.expect_restored();
}

TEST_CASE("what was to be folded when its generation ended is not put behind the next one") {
  const Replicated at;
  Faulty faulty;
  Writer db(at.uri());
  db.must("PRAGMA journal_mode=WAL; CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  db.shipped();
  const std::string before = generation(db);
  const std::string folder = at.replica() + "/generations/";
  const auto insert = [&] { db.must("INSERT INTO t VALUES (NULL, randomblob(100))"); };
  const auto segments = [&] {
    const std::filesystem::path wal = folder + before + "/wal";
    return std::filesystem::exists(wal)
               ? std::distance(std::filesystem::directory_iterator(wal), {})
               : 0;
  };
  while (segments() < 31) {
    insert();
    db.shipped();
  }
  // With the next one its fold begins, which reads all of them, one after the other.
  const auto set_latency = [&](int ms) {
    faulty.on_store(at,
                    [ms](FaultStore& store) { store.set_latency(std::chrono::milliseconds(ms)); });
  };
  set_latency(150);
  insert();
  db.shipped();
  CHECK(segments() == 32);
  {
    Sqlite other("file:" + at.path(), nullptr);
    other.must("PRAGMA busy_timeout=10000; INSERT INTO t VALUES (NULL, 1)");
    other.must("PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES (NULL, 2)");
  }
  insert();
  CHECK(generation(db) != before);
  db.shipped();
  set_latency(0);
  CHECK(std::filesystem::exists(folder + generation(db) + "/snapshots"));
  std::this_thread::sleep_for(std::chrono::seconds(1));
  CHECK(faulty.on_store(at, [](FaultStore& store) { return times(Until::compaction, store); }) ==
        0);
  db.close();
  at.expect_restored();
}
