// Folding many small segments, against what a restore gives, with a store that fails and processes
// that end.

#include "shipper/compaction.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <new>
#include <set>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <doctest/doctest.h>

#include "format/names.h"
#include "restore/restore.h"
#include "store/fault_store.h"
#include "test/unit/config/temp_folder.h"
#include "test/unit/format/lz4_memory.h"
#include "test/unit/format/random.h"
#include "test/unit/restore/history.h"
#include "test/unit/store/run.h"

using namespace sqlstream;
using test::History;

namespace {

const Time kBegin{std::chrono::seconds(1'750'000'000)};
constexpr std::uint32_t kPageSize = 512;

replica::Segment segment(std::uint64_t begin, std::uint64_t end, unsigned level = 0,
                         std::uint32_t index = 0) {
  return {{index, begin}, end - begin, {}, level, end};
}

const std::function<bool()> kAlways = [] { return true; };

// Never destroyed: a worker of the engine may still be leaving its last call here when a test ends.
asio::io_context& context() {
  static auto* const io = new asio::io_context(1);
  return *io;
}

class Replica {
 public:
  Replica() : history_(folder_.path() + "/replica", {7}, kPageSize, true, kBegin) {
    StoreSettings settings;
    settings.path = folder_.path() + "/replica";
    auto store =
        std::make_unique<FaultStore>(make_store(settings, io_.get_executor()), io_.get_executor());
    faults_ = store.get();
    store_ = std::move(store);
    begin_process();
  }

  FaultStore& faults() { return *faults_; }
  History& history() { return history_; }
  Compaction& compaction() { return *compaction_; }
  void begin_process() {
    compaction_ = std::make_unique<Compaction>(*store_, deletion(), log::Fields{});
  }

  void ship(test::Random& random) {
    const std::uint32_t size = random.one_in(9) ? random.between(2, 20) : random.between(15, 60);
    History::Images images;
    std::set<std::uint32_t> pages{1};
    for (std::uint32_t n = random.between(0, 4); n > 0; --n) pages.insert(random.between(1, size));
    for (const auto page : pages) {
      Bytes image = random.bytes(kPageSize);
      if (page == 1) std::copy_n(history_.image().begin(), 100, image.begin());
      images.emplace_back(page, std::move(image));
    }
    const Position begin = history_.points().size() == 1 ? Position{} : behind();
    time_ += std::chrono::seconds(1);
    history_.batch(images, size, 1, time_);
    const Position end = behind();
    const bool rolled = end.index != begin.index;
    compaction_->shipped({7}, segment(rolled ? 0 : begin.offset, end.offset, 0, end.index));
  }

  void run(const std::function<bool()>& wanted = kAlways) {
    test::run(io_, compaction_->run(wanted));
  }

  // Meanwhile more is shipped, faster than the store answers.
  void run_while_shipping(test::Random& random) {
    faults_->set_latency(std::chrono::milliseconds(10));
    bool done = false;
    const auto ship_on = [&]() -> asio::awaitable<void> {
      asio::steady_timer timer(io_);
      while (!done) {
        ship(random);
        timer.expires_after(std::chrono::milliseconds(1));
        co_await timer.async_wait(asio::use_awaitable);
      }
    };
    const auto compact = [&]() -> asio::awaitable<void> {
      co_await compaction_->run(kAlways);
      done = true;
    };
    asio::co_spawn(io_, ship_on(), asio::detached);
    test::run(io_, compact());
    faults_->set_latency(std::chrono::milliseconds(0));
  }

  std::vector<replica::Segment> compacted() {
    return test::run(io_, replica::list_compacted(*store_, {7}));
  }

  // Every `step`th state, and the last.
  void check(std::size_t step) {
    const auto& points = history_.points();
    for (std::size_t i = 0; i < points.size(); i += step) restore(points[i].time, points[i].image);
    restore({}, history_.image());
  }

  // How many objects a restore of the newest state reads, beside the snapshot.
  std::uint64_t objects_read() {
    std::uint64_t read = 0;
    restore({}, history_.image(), &read);
    return read - 1;
  }

 private:
  Deletion& deletion() { return deletion_.emplace(*store_, log::Fields{}); }
  Position behind() const { return history_.points().back().position; }

  void restore(std::optional<Time> moment, const Bytes& expected, std::uint64_t* read = nullptr) {
    RestoreOptions options;
    options.timestamp = moment;
    options.quiet = true;
    options.output = folder_.path() + "/restored";
    std::filesystem::remove(options.output);
    asio::thread_pool workers(1);
    test::run(io_, sqlstream::restore(*store_, options, workers, [&](const RestoreProgress& p) {
                if (read != nullptr) *read = p.objects_total;
              }));
    REQUIRE(test::read_file(options.output) == expected);
  }

  config::testing::TempFolder folder_;
  asio::io_context& io_ = context();
  History history_;
  std::unique_ptr<Store> store_;
  FaultStore* faults_ = nullptr;
  std::optional<Deletion> deletion_;
  std::unique_ptr<Compaction> compaction_;
  Time time_ = kBegin;
};

}  // namespace

TEST_CASE("small segments are folded when they are many, level by level") {
  CompactionPlan plan;
  std::uint64_t at = 0;
  std::size_t folded = 0;
  std::array<std::size_t, CompactionPlan::kTopLevel + 1> made{};
  for (std::size_t n = 0; n < CompactionPlan::kSegments * 16 * 16; ++n) {
    plan.add(segment(at, at + 4000));
    at += 4000;
    while (const auto inputs = plan.next()) {
      plan.pop();
      const auto& first = inputs->front();
      const auto& last = inputs->back();
      CHECK(inputs->size() ==
            (first.level == 0 ? CompactionPlan::kSegments : CompactionPlan::kFanIn));
      plan.add(segment(first.position.offset, last.end, first.level + 1));
      ++made[first.level + 1];
      ++folded;
    }
  }
  CHECK(made[1] == 256);
  CHECK(made[2] == 16);
  CHECK(made[3] == 1);
  CHECK(folded == 273);
}

TEST_CASE("what is folded is adjacent, of one index, and small") {
  CompactionPlan plan;
  const auto add_small = [&](std::uint64_t from, std::size_t count, std::uint32_t index) {
    for (std::size_t i = 0; i < count; ++i) {
      plan.add(segment(from + i * 100, from + (i + 1) * 100, 0, index));
    }
  };
  add_small(0, 20, 0);
  add_small(5000, 31, 0);  // something is missing in between
  auto run = plan.next();
  REQUIRE(run);
  CHECK(run->size() == 20);
  plan.pop();
  CHECK_FALSE(plan.next());

  add_small(0, 5, 1);
  run = plan.next();
  REQUIRE(run);
  CHECK(run->size() == 31);
  CHECK(run->back().position.index == 0);
  plan.pop();

  plan.add(segment(500, 500 + (16 << 20), 0, 1));  // large; five are too few to fold
  CHECK_FALSE(plan.next());
  const std::uint64_t large = CompactionPlan::kRunBytes / 4;
  for (std::uint64_t i = 0; i < 5; ++i) plan.add(segment(i * large, (i + 1) * large, 0, 2));
  CHECK_FALSE(plan.next());
}

TEST_CASE("every state is restored while its segments are folded, from few objects") {
  test::Random random("compaction");
  Replica replica;
  for (int n = 0; n < 800; ++n) {
    replica.ship(random);
    if (random.one_in(400)) replica.history().roll();
    while (replica.compaction().due()) replica.run();
    if (n % 200 == 199) replica.check(41);
  }
  replica.check(13);
  CHECK(replica.objects_read() < 200);
  CHECK(!replica.compacted().empty());
}

TEST_CASE("what others shipped is folded although more is shipped all the time") {
  test::Random random("compaction meanwhile");
  Replica replica;
  for (int n = 0; n < 50; ++n) replica.ship(random);
  replica.begin_process();
  while (!replica.compaction().due()) replica.ship(random);
  replica.run_while_shipping(random);
  CHECK(!replica.compacted().empty());
  while (replica.compaction().due()) replica.run();
  replica.check(17);
  CHECK(replica.objects_read() < 60);
}

TEST_CASE("a process goes on folding where another ended, whatever failed in between") {
  using Operation = FaultStore::Operation;
  using When = FaultStore::When;
  test::Random random("compaction with faults");
  Replica replica;
  const Operation operations[] = {Operation::upload, Operation::get, Operation::list,
                                  Operation::remove};
  std::size_t failed = 0;
  for (int n = 0; n < 1300; ++n) {
    replica.ship(random);
    if (random.one_in(120)) replica.begin_process();
    while (replica.compaction().due()) {
      if (random.one_in(2)) {
        FaultStore::Fault fault;
        fault.operation = operations[random.between(0, 3)];
        fault.when = random.one_in(2) ? When::before : When::after;
        fault.skip = static_cast<int>(random.between(0, 2));
        fault.key_part = random.one_in(2) ? "compacted/" : "";
        // Each fold uploads: at least one strikes, whatever the seed.
        if (failed == 0) fault = {.operation = Operation::upload, .when = When::before};
        replica.faults().add(fault);
      }
      try {
        std::uint32_t left = random.one_in(4) ? random.between(0, 40) : 1'000'000;
        replica.run([&] { return left-- > 0; });
      } catch (const StoreError&) {
        ++failed;
      }
      replica.faults().clear();
      if (random.one_in(12)) replica.begin_process();
    }
    if (n % 300 == 299) replica.check(71);
  }
  CHECK(failed > 0);
  replica.check(23);
  // Nothing stopped it for good.
  for (int n = 0; n < 600; ++n) {
    replica.ship(random);
    while (replica.compaction().due()) replica.run();
  }
  replica.check(97);
  CHECK(replica.objects_read() < 150);
  // Nor is anything there twice: but for the last, what was folded into others is deleted.
  std::size_t inside = 0;
  const auto compacted = replica.compacted();
  for (const auto& one : compacted) {
    inside += std::any_of(compacted.begin(), compacted.end(), [&](const auto& other) {
      return one.level < other.level && one.position >= other.position && one.end <= other.end;
    });
  }
  CHECK(inside <= CompactionPlan::kFanIn);
}

TEST_CASE("what is wanted no more when all of it was written is not put, and folded when it is") {
  test::Random random("compaction unwanted");
  Replica replica;
  while (!replica.compaction().due()) replica.ship(random);
  // Its upload has begun.
  const std::string folder = replica.history().path("generations/0000000000000007/compacted");
  bool begun = false;
  replica.run([&] {
    begun = std::filesystem::exists(folder);
    return !begun;
  });
  CHECK(begun);
  CHECK(replica.compacted().empty());
  replica.run();
  CHECK(replica.compacted().size() == 1);
  replica.check(11);
}

TEST_CASE("what is damaged is said once and read once, and those behind it are folded") {
  using Operation = FaultStore::Operation;
  test::Random random("compaction behind damage");
  Replica replica;
  for (int n = 0; n < 20; ++n) replica.ship(random);
  const std::string key = replica.history().keys().back();
  const Bytes whole = test::read_file(replica.history().path(key));
  Bytes damaged = whole;
  SUBCASE("the metadata") {
    damaged[20] ^= 1;
  }
  SUBCASE("what is behind it") {
    damaged.resize(damaged.size() - 1);
  }
  test::write_file(replica.history().path(key), damaged);

  std::vector<std::string> lines;
  log::set_sink([&](log::Level, std::string_view line) { lines.emplace_back(line); });
  const int lists = replica.faults().count(Operation::list);
  for (int n = 0; n < 200; ++n) {
    replica.ship(random);
    while (replica.compaction().due()) replica.run();
  }
  CHECK(replica.faults().count(Operation::list) == lists + 2);  // one look
  CHECK(replica.compacted().size() == 5);

  // What the store fails with makes it look again, and find it: nothing is folded behind it now.
  for (const auto& segment : replica.compacted()) {
    std::filesystem::remove(replica.history().path(replica::key_of({7}, segment)));
  }
  replica.faults().add({.operation = Operation::upload});
  replica.faults().add({.operation = Operation::get, .key_part = key, .times = -1});
  int failed = 0;
  for (int n = 0; n < 64; ++n) {
    replica.ship(random);
    while (replica.compaction().due() && failed < 2) {
      try {
        replica.run();
      } catch (const StoreError&) {
        ++failed;
      }
    }
  }
  log::set_sink({});
  CHECK(failed == 1);
  CHECK(replica.compacted().size() > 5);
  REQUIRE(lines.size() == 1);
  CHECK(lines.front().find(key) != std::string::npos);
  replica.faults().clear();
  test::write_file(replica.history().path(key), whole);
  replica.check(40);
}

TEST_CASE("what is right alone, and wrong where it is, is not folded into what a restore takes") {
  test::Random random("compaction of a wrong chain");
  Replica replica;
  while (!replica.compaction().due()) replica.ship(random);
  std::map<std::uint64_t, std::string> of_size;
  std::string first;
  std::string second;
  for (const auto& key : replica.history().keys()) {
    const auto metadata = decode_metadata(test::read_file(replica.history().path(key)));
    if (metadata->kind != Metadata::Kind::segment) continue;
    const auto [same, is_new] = of_size.try_emplace(metadata->wal_size, key);
    if (is_new) continue;
    first = same->second;
    second = key;
    break;
  }
  REQUIRE(!second.empty());
  const auto exchange = [&] {
    const Bytes object = test::read_file(replica.history().path(first));
    std::filesystem::copy_file(replica.history().path(second), replica.history().path(first),
                               std::filesystem::copy_options::overwrite_existing);
    test::write_file(replica.history().path(second), object);
  };
  exchange();

  std::vector<std::string> lines;
  log::set_sink([&](log::Level, std::string_view line) { lines.emplace_back(line); });
  while (replica.compaction().due()) replica.run();
  log::set_sink({});
  CHECK(replica.compacted().empty());
  REQUIRE(lines.size() == 1);
  CHECK(lines.front().find(first) != std::string::npos);
  CHECK_THROWS_WITH_AS(replica.check(1000), doctest::Contains(first.c_str()), Error);
  exchange();
  replica.check(7);
}

TEST_CASE("what is not a segment's fault is no damage: a later look folds what was left") {
  test::Random random("compaction without damage");
  Replica replica;
  int lines = 0;
  log::set_sink([&](log::Level, std::string_view) { ++lines; });
  while (!replica.compaction().due()) replica.ship(random);
  SUBCASE("want of memory") {
    test::lz4_lacks = 64 << 10;
    CHECK_THROWS_AS(replica.run(), std::bad_alloc);
    test::lz4_lacks = test::kLz4LacksNothing;
  }
  SUBCASE("an error beside the segments") {
    CHECK_THROWS_AS(replica.run([]() -> bool { throw Error("no answer"); }), Error);
  }
  CHECK(replica.compacted().empty());
  while (!replica.compaction().due()) replica.ship(random);
  while (replica.compaction().due()) replica.run();
  log::set_sink({});
  CHECK(lines == 0);
  const auto compacted = replica.compacted();
  REQUIRE(compacted.size() == 2);
  CHECK(compacted.front().position.offset == 0);
  replica.check(17);
}

TEST_CASE("a store that refuses to delete keeps all, says so once, and is compacted all the same") {
  Replica replica;
  test::Random random("a store that refuses to delete");
  replica.faults().add(
      {.operation = FaultStore::Operation::remove, .kind = StoreError::Kind::denied, .times = -1});
  int lines = 0;
  log::set_sink([&](log::Level, std::string_view) { ++lines; });
  for (std::size_t i = 0; i < 3 * CompactionPlan::kSegments * CompactionPlan::kFanIn; ++i) {
    replica.ship(random);
    while (replica.compaction().due()) replica.run();
  }
  log::set_sink({});
  CHECK(replica.faults().count(FaultStore::Operation::remove) > 1);
  CHECK(lines == 1);
  std::size_t highest = 0;
  for (const auto& segment : replica.compacted())
    highest = std::max<std::size_t>(highest, segment.level);
  CHECK(highest >= 2);
  CHECK(replica.compacted().size() > 3 * CompactionPlan::kFanIn);
  replica.check(200);
}
