// A store that fails at random, behind the store's interface.

#include <future>
#include <random>
#include <string>

#include <boost/asio/post.hpp>
#include <doctest/doctest.h>

#include "shipper/engine.h"
#include "store/fault_store.h"
#include "support.h"

using namespace sqlstream;
using namespace sqlstream::testing;

namespace {

/// The store of the first database that is opened while this lives.
class Faulty {
 public:
  Faulty() {
    wrap_stores([this](std::unique_ptr<Store> store, const asio::any_io_executor& executor) {
      auto wrapped = std::make_unique<FaultStore>(std::move(store), executor);
      faults_ = wrapped.get();
      return wrapped;
    });
  }
  Faulty(const Faulty&) = delete;
  Faulty& operator=(const Faulty&) = delete;
  ~Faulty() { wrap_stores({}); }

  /// Does something with it, where it lives.
  template <class Work>
  auto on_store(Work work) {
    using Result = decltype(work(*faults_));
    std::packaged_task<Result()> task([&] { return work(*faults_); });
    asio::post(Engine::get().executor(), [&] { task(); });
    return task.get_future().get();
  }

 private:
  FaultStore* faults_ = nullptr;
};

FaultStore::Fault random_fault(std::mt19937_64& random) {
  using Operation = FaultStore::Operation;
  using When = FaultStore::When;
  using Kind = StoreError::Kind;
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

}  // namespace

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
    faulty->on_store([&](FaultStore& store) {
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
      faulty->on_store([](FaultStore& store) {
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
