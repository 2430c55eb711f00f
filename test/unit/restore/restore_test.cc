#include "restore/restore.h"

#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <set>
#include <sys/resource.h>
#include <sys/stat.h>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <doctest/doctest.h>

#include "base/log.h"
#include "format/lz4_frame.h"
#include "format/names.h"
#include "format/segment_merge.h"
#include "restore/database_image.h"
#include "restore/target_file.h"
#include "store/fault_store.h"
#include "store/replica.h"
#include "test/unit/config/temp_folder.h"
#include "test/unit/format/random.h"
#include "test/unit/restore/history.h"
#include "test/unit/store/run.h"

namespace sqlstream {
namespace {

namespace fs = std::filesystem;
using config::testing::TempFolder;
using test::History;

const Time kBegin{std::chrono::seconds(1'750'000'000)};

struct Fixture {
  TempFolder folder;
  std::string replica = folder.path() + "/replica";
  std::string output = folder.path() + "/out/db";
  Fixture() { fs::create_directory(folder.path() + "/out"); }

  RestoreResult restore(RestoreOptions options = {}) {
    fs::remove(output);
    return restore_keeping(std::move(options));
  }
  RestoreResult restore_keeping(RestoreOptions options = {}) {
    asio::io_context io(1);
    StoreSettings settings;
    settings.path = replica;
    const auto store = make_store(settings, io.get_executor());
    options.output = output;
    asio::thread_pool workers(2);
    return test::run(io, sqlstream::restore(*store, std::move(options), workers, {}));
  }
  std::string error(RestoreOptions options = {}) {
    try {
      restore(std::move(options));
    } catch (const Error& error) {
      // Whatever went wrong, the folder is as it was.
      CHECK(fs::is_empty(folder.path() + "/out"));
      return error.what();
    }
    return "";
  }
  bool restored(const Bytes& expected) const { return test::read_file(output) == expected; }
};

RestoreOptions until(Time time) {
  RestoreOptions options;
  options.timestamp = time;
  return options;
}

bool mentions(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE("not in \"" << text << "\": " << part);
  return found;
}

History::Images random_images(test::Random& random, std::uint32_t page_size, std::uint32_t size) {
  std::set<std::uint32_t> pages;
  for (std::uint32_t n = random.between(1, 8); n > 0; --n) pages.insert(random.between(1, size));
  History::Images images;
  for (const auto page : pages) {
    Bytes image = random.bytes(page_size);
    if (page == 1) {  // keeps what a database begins with
      const std::string_view magic{"SQLite format 3\0", 16};
      std::copy(magic.begin(), magic.end(), image.begin());
      image[16] = static_cast<std::uint8_t>(page_size >> 8);
      image[17] = static_cast<std::uint8_t>(page_size);
    }
    images.emplace_back(page, std::move(image));
  }
  return images;
}

// Folds `run`, of adjacent objects, into one beside them. Empty: it is not for folding.
std::optional<replica::Segment> compact(const History& history,
                                        const std::vector<replica::Segment>& run,
                                        test::Random& random) {
  std::vector<SegmentMerge::Span> spans;
  std::vector<Bytes> objects;
  std::vector<std::size_t> taken(run.size());
  unsigned level = 0;
  for (const auto& segment : run) {
    spans.push_back({segment.position.offset, segment.end});
    objects.push_back(test::read_file(history.path(key_of(history.generation(), segment))));
    level = std::max(level, segment.level);
  }
  replica::Segment folded = run.front();
  folded.end = run.back().end;
  folded.level = level + 1;
  Bytes object;
  try {
    SegmentMerge merge(folded.position.index, spans);
    while (!merge.done()) {
      Bytes out;
      const auto lacking = merge.run(out);
      object.insert(object.end(), out.begin(), out.end());
      if (!lacking) continue;
      const std::size_t i = *lacking;
      const std::size_t least = taken[i] == 0 ? 2048 : 1;
      const std::size_t size = std::min<std::size_t>(
          objects[i].size() - taken[i], std::max<std::size_t>(least, random.between(1, 9000)));
      const auto from = objects[i].begin() + static_cast<std::ptrdiff_t>(taken[i]);
      taken[i] += size;
      merge.give(i, Bytes(from, from + static_cast<std::ptrdiff_t>(size)),
                 taken[i] == objects[i].size());
    }
  } catch (const SegmentMerge::Unsuitable&) {
    return std::nullopt;
  }
  test::write_file(history.path(key_of(history.generation(), folded)), object);
  folded.size = object.size();
  return folded;
}

// Folds random runs of what is there, folded ones, too. Nested: what was folded is not folded again
// with others.
std::vector<replica::Segment> compact_some(const History& history, test::Random& random,
                                           bool nested) {
  std::vector<replica::Segment> all;
  for (const auto& key : history.keys()) {
    const auto name = names::parse_segment_key(key);
    if (!name) continue;
    const auto metadata = decode_metadata(test::read_file(history.path(key)));
    all.push_back({name->position, 0, {}, 0, name->position.offset + metadata->wal_size});
  }
  std::vector<replica::Segment> folded;
  for (std::uint32_t n = random.between(1, 12); n > 0 && !all.empty(); --n) {
    std::vector<replica::Segment> run{
        all[random.between(0, static_cast<std::uint32_t>(all.size()) - 1)]};
    for (std::uint32_t more = random.between(0, 5); more > 0; --more) {
      std::vector<replica::Segment> next;
      for (const auto& segment : all) {
        if (segment.position == Position{run.back().position.index, run.back().end}) {
          next.push_back(segment);
        }
      }
      if (next.empty()) break;
      run.push_back(next[random.between(0, static_cast<std::uint32_t>(next.size()) - 1)]);
    }
    if (const auto object = compact(history, run, random)) {
      if (nested) {
        std::erase_if(all, [&](const auto& segment) {
          return segment.position.index == object->position.index &&
                 segment.position >= object->position && segment.end <= object->end;
        });
      }
      folded.push_back(*object);
      all.push_back(*object);
    }
  }
  return folded;
}

void check_every_state(Fixture& f, const History& history) {
  for (const auto& point : history.points()) {
    for (const auto later : {0, 1}) {
      const RestoreResult result = f.restore(until(point.time + std::chrono::nanoseconds(later)));
      REQUIRE(f.restored(point.image));
      CHECK(result.commit_time == point.time);
    }
    RestoreOptions options;
    options.until = point.position;
    CHECK(f.restore(options).position == point.position);
    REQUIRE(f.restored(point.image));
  }
  f.restore();
  REQUIRE(f.restored(history.image()));
}

TEST_CASE("every state is restored where segments are folded, and without what they were") {
  test::Random random("compacted");
  std::size_t read = 0;
  for (int round = 0; round < 40; ++round) {
    Fixture f;
    const std::uint32_t page_size = 512U << random.between(0, 3);
    History history(f.replica, Generation::random(), page_size, true, kBegin);
    Time time = kBegin;
    for (std::uint32_t n = random.between(2, 24); n > 0; --n) {
      const std::uint32_t size = random.one_in(4) ? random.between(1, 20) : random.between(10, 60);
      time += std::chrono::nanoseconds(random.between(2, 1'000'000'000));
      history.batch(random_images(random, page_size, size), size,
                    random.one_in(6) ? random.between(1, 4) : 1, time);
      if (random.one_in(15)) history.roll();
      if (random.one_in(15)) history.snapshot(time);
    }
    const auto folded = compact_some(history, random, true);
    check_every_state(f, history);
    // What a compacted segment stands for is not read.
    for (const auto& key : history.keys()) {
      const auto name = names::parse_segment_key(key);
      if (!name) continue;
      const bool covered = std::any_of(folded.begin(), folded.end(), [&](const auto& segment) {
        return segment.position.index == name->position.index &&
               segment.position.offset <= name->position.offset &&
               name->position.offset < segment.end;
      });
      if (!covered) continue;
      test::write_file(history.path(key), Bytes{});
      ++read;
    }
    f.restore();
    REQUIRE(f.restored(history.image()));
  }
  CHECK(read > 100);
}

TEST_CASE("what is folded wrongly, or was, is restored from what it stands for") {
  test::Random random("damaged compaction");
  std::size_t damaged = 0;
  for (int round = 0; round < 20; ++round) {
    Fixture f;
    History history(f.replica, Generation::random(), 1024, true, kBegin);
    Time time = kBegin;
    for (int n = 0; n < 12; ++n) {
      const std::uint32_t size = random.between(3, 60);
      time += std::chrono::seconds(1);
      history.batch(random_images(random, 1024, size), size, 1, time);
    }
    for (const auto& segment : compact_some(history, random, false)) {
      const std::string path = history.path(key_of(history.generation(), segment));
      Bytes object = test::read_file(path);
      if (object.empty()) continue;
      switch (random.between(0, 2)) {
        case 0:
          object[random.between(0, static_cast<std::uint32_t>(object.size()) - 1)] ^= 0x10;
          break;
        case 1:
          object.resize(random.between(0, static_cast<std::uint32_t>(object.size()) - 1));
          break;
        default:
          object = test::read_file(history.path(history.keys().back()));
      }
      test::write_file(path, object);
      ++damaged;
    }
    check_every_state(f, history);
  }
  CHECK(damaged > 40);
}

TEST_CASE("compacted segments in each other's place are done without") {
  test::Random random("exchanged compaction");
  Fixture f;
  History history(f.replica, {7}, 1024, true, kBegin);
  std::vector<replica::Segment> run;
  const auto ship = [&](std::uint32_t n) {
    for (; n > 0; --n) {
      const History::Images images{{1 + n, random.bytes(1024)}};
      history.batch(images, 20, 1, history.points().back().time + std::chrono::seconds(1));
      const auto name = names::parse_segment_key(history.keys().back());
      run.push_back({name->position, 0, {}, 0, history.points().back().position.offset});
    }
    return std::exchange(run, {});
  };
  ship(1);
  const auto first = compact(history, ship(4), random);
  const auto second = compact(history, ship(4), random);
  SUBCASE("with what was shipped behind them") {
    ship(1);
  }
  SUBCASE("at the end") {}
  const std::string one = history.path(key_of(history.generation(), *first));
  const std::string other = history.path(key_of(history.generation(), *second));
  const Bytes object = test::read_file(one);
  test::write_file(one, test::read_file(other));
  test::write_file(other, object);
  f.restore();
  CHECK(f.restored(history.image()));
}

TEST_CASE("every state of random histories is restored") {
  test::Random random("every state of random histories");
  for (int round = 0; round < 24; ++round) {
    Fixture f;
    const std::uint32_t page_size = 512U << random.between(0, 3);
    const bool ours = round % 2 == 0;
    CAPTURE(page_size);
    CAPTURE(ours);
    History history(f.replica, Generation::random(), page_size, ours, kBegin);
    Time time = kBegin;
    std::vector<std::pair<std::uint32_t, std::size_t>> index_ends;  // index, point
    for (std::uint32_t n = random.between(1, 14); n > 0; --n) {
      const std::uint32_t size = random.one_in(4) ? random.between(1, 20) : random.between(10, 60);
      time += std::chrono::nanoseconds(random.between(2, 1'000'000'000));
      history.batch(random_images(random, page_size, size), size, random.between(1, 4), time);
      const std::uint32_t index = history.points().back().position.index;
      index_ends.emplace_back(index, history.points().size() - 1);
      if (random.one_in(5)) history.roll();
      if (random.one_in(5)) history.snapshot(time);
    }
    const auto& points = history.points();
    for (std::size_t i = 0; i < points.size(); ++i) {
      for (const auto later : {0, 1}) {
        const Time moment = points[i].time + std::chrono::nanoseconds(later);
        const RestoreResult result = f.restore(until(moment));
        CAPTURE(i);
        REQUIRE(f.restored(points[i].image));
        CHECK(result.commit_time == points[i].time);
        CHECK(result.generation == history.generation());
        CHECK(result.page_size == page_size);
        CHECK(result.pages == points[i].image.size() / page_size);
        CHECK(result.output == f.output);
      }
    }
    for (std::size_t i = 0; i < index_ends.size(); ++i) {
      const auto [index, point] = index_ends[i];
      if (i + 1 < index_ends.size() && index_ends[i + 1].first == index) continue;
      RestoreOptions options;
      options.index = index;
      const RestoreResult result = f.restore(options);
      REQUIRE(f.restored(points[point].image));
      CHECK(result.position == points[point].position);
    }
    for (const auto& point : points) {
      RestoreOptions options;
      options.until = point.position;
      const RestoreResult result = f.restore(options);
      REQUIRE(f.restored(point.image));
      CHECK(result.position == point.position);
    }
    f.restore();
    REQUIRE(f.restored(history.image()));
    f.restore(until(time + std::chrono::hours(1)));
    REQUIRE(f.restored(history.image()));
    RestoreOptions one_at_a_time;
    one_at_a_time.parallelism = 1;
    f.restore(one_at_a_time);
    REQUIRE(f.restored(history.image()));
    CHECK(mentions(f.error(until(kBegin - std::chrono::nanoseconds(1))), format_rfc3339(kBegin)));
  }
}

TEST_CASE("objects larger than a download, and transactions larger than memory for them") {
  test::Random random("large objects");
  for (const bool ours : {true, false}) {
    Fixture f;
    History history(f.replica, {7}, 4096, ours, kBegin);
    const auto many = [&](std::uint32_t first, std::uint32_t last) {
      History::Images images;
      for (auto page = first; page <= last; ++page) images.emplace_back(page, random.bytes(4096));
      return images;
    };
    history.batch(many(2, 2000), 2000, 1, kBegin + std::chrono::seconds(1));
    history.snapshot(kBegin + std::chrono::seconds(1));
    history.batch(many(500, 2500), 2500, 3, kBegin + std::chrono::seconds(2));
    history.batch(many(100, 110), 900, 1, kBegin + std::chrono::seconds(3));
    history.batch(many(5, 5), 3000, 1, kBegin + std::chrono::seconds(4));
    for (const auto& point : history.points()) {
      f.restore(until(point.time));
      CHECK(f.restored(point.image));
    }
  }
}

// Gives the first piece of a snapshot, and what is behind it when the WAL has been replayed to
// where it must wait.
class LateSnapshot : public FaultStore {
 public:
  LateSnapshot(std::unique_ptr<Store> store, asio::any_io_executor executor, std::string folder,
               std::uint64_t awaited)
      : FaultStore(std::move(store), executor),
        timer_(std::move(executor)),
        folder_(std::move(folder)),
        awaited_(awaited) {}

  asio::awaitable<Bytes> get(std::string key, std::optional<ByteRange> range) override {
    if (key.find("snapshots/") != std::string::npos && range && range->first > 0) {
      while (output_size() < awaited_) co_await pause();
      for (int i = 0; i < 20; ++i) co_await pause();  // to see whether it goes on
      seen_ = output_size();
    }
    co_return co_await FaultStore::get(std::move(key), range);
  }
  /// The output's size when the snapshot went on.
  std::uint64_t seen() const { return seen_; }

 private:
  asio::awaitable<void> pause() {
    timer_.expires_after(std::chrono::milliseconds(5));
    co_await timer_.async_wait(asio::use_awaitable);
  }
  std::uint64_t output_size() const {
    const fs::directory_iterator files(folder_);
    return files == fs::directory_iterator() ? 0 : files->file_size();
  }

  asio::steady_timer timer_;
  std::string folder_;
  std::uint64_t awaited_;
  std::uint64_t seen_ = 0;
};

TEST_CASE("a WAL that is everywhere ahead of the snapshot waits for it") {
  constexpr std::uint32_t kPageSize = 512;
  constexpr std::uint32_t kSnapshot = 7000;  // pages: two downloads
  constexpr std::uint32_t kPlaces = 3 * DatabaseImage::kMostChunks;
  const auto size_with = [](std::uint64_t places) {
    return (kSnapshot + places * 4096) * kPageSize;
  };
  test::Random random("far ahead of the snapshot");
  Fixture f;
  History history(f.replica, {7}, kPageSize, true, kBegin);
  History::Images images;
  for (std::uint32_t page = 2; page <= kSnapshot; ++page) {
    images.emplace_back(page, random.bytes(kPageSize));
  }
  history.batch(images, kSnapshot, 1, kBegin + std::chrono::seconds(1));
  history.snapshot(kBegin + std::chrono::seconds(1));
  // More places than are remembered; all beyond the size, so that little is left.
  images.clear();
  for (std::uint32_t i = 1; i <= kPlaces; ++i) {
    images.emplace_back(kSnapshot + i * 4096, Bytes(kPageSize));
  }
  images.emplace_back(7, random.bytes(kPageSize));
  history.batch(images, 6000, 1, kBegin + std::chrono::seconds(2));

  asio::io_context io(1);
  StoreSettings settings;
  settings.path = f.replica;
  LateSnapshot store(make_store(settings, io.get_executor()), io.get_executor(),
                     fs::path(f.output).parent_path(), size_with(DatabaseImage::kMostChunks));
  asio::thread_pool workers(2);
  test::run(io, sqlstream::restore(store, {.output = f.output}, workers, {}));
  CHECK(f.restored(history.image()));
  CHECK(store.seen() < size_with(kPlaces / 2));
}

TEST_CASE("a transaction without its commit is not applied") {
  test::Random random("a transaction without its commit");
  for (const bool ours : {true, false}) {
    Fixture f;
    History history(f.replica, {7}, 1024, ours, kBegin);
    history.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(1));
    const Bytes before = history.image();
    History::Images images;
    for (std::uint32_t page = 2; page < 40; ++page) images.emplace_back(page, random.bytes(1024));
    history.batch(images, 40, 3, kBegin + std::chrono::seconds(2));
    fs::remove(history.path(history.keys().back()));
    const RestoreResult result = f.restore();
    CHECK(f.restored(before));
    CHECK(result.position == history.points()[1].position);
    CHECK(result.commit_time == history.points()[1].time);
  }
}

TEST_CASE("what Litestream shipped twice is replayed once") {
  test::Random random("shipped twice");
  for (const bool ours : {false, true}) {
    Fixture f;
    History history(f.replica, {7}, 1024, ours, kBegin);
    for (int i = 1; i <= 3; ++i) {
      history.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(i));
    }
    const auto& keys = history.keys();
    const std::string first = history.path(keys[keys.size() - 3]);
    const std::string second = history.path(keys[keys.size() - 2]);
    // The first segment again, with the second's frames behind its own.
    const auto raw = [](const std::string& path) {
      Bytes data;
      lz4::Decompressor decompressor;
      decompressor.write(test::read_file(path), [&](ByteView piece) {
        data.insert(data.end(), piece.begin(), piece.end());
      });
      return data;
    };
    Bytes both = raw(first);
    const Bytes more = raw(second);
    both.insert(both.end(), more.begin(), more.end());
    Bytes stored;
    lz4::Compressor compressor;
    compressor.write(both, stored);
    compressor.finish(stored);
    if (ours) {  // never ours: its metadata tells that something is wrong
      const Bytes metadata = encode_metadata(*decode_metadata(test::read_file(first)));
      stored.insert(stored.begin(), metadata.begin(), metadata.end());
    }
    test::write_file(first, stored);
    if (ours) {
      CHECK_FALSE(f.error().empty());
      continue;
    }
    CHECK(f.restore().position == history.points().back().position);
    CHECK(f.restored(history.image()));
  }
}

TEST_CASE("a missing segment is named, with how far a restore can go") {
  test::Random random("a missing segment");
  for (const bool ours : {true, false}) {
    for (const bool at_index_end : {false, true}) {
      if (at_index_end && !ours) continue;  // there nothing tells
      Fixture f;
      History history(f.replica, {0xabc}, 1024, ours, kBegin);
      for (int i = 1; i <= 6; ++i) {
        history.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(i));
        if (at_index_end && i == 4) history.roll();
      }
      const auto& keys = history.keys();  // the snapshot, then the segments
      fs::remove(history.path(keys[4]));
      const std::string text = f.error();
      CHECK(mentions(text, "missing"));
      CHECK(mentions(text, keys[5]));
      CHECK(mentions(text, "-generation 0000000000000abc -timestamp " +
                               format_rfc3339(history.points()[3].time)));
      RestoreOptions options = until(history.points()[3].time);
      options.generation = Generation{0xabc};
      f.restore(options);
      CHECK(f.restored(history.points()[3].image));
    }
  }
}

// Two machines that both went on with one generation: what the second one put there is of another
// history, whether it is behind a snapshot of the first one's or behind its segments.
TEST_CASE("an index that begins before what is in front of it ends is damage") {
  test::Random random("two histories");
  for (const bool behind_snapshot : {false, true}) {
    for (const bool folded : {false, true}) {
      Fixture f;
      History one(f.replica, {7}, 1024, true, kBegin);
      History two(f.replica + "-two", {7}, 1024, true, kBegin);
      for (History* each : {&one, &two}) {
        each->batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(1));
      }
      one.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(2));
      if (behind_snapshot) one.snapshot(kBegin + std::chrono::seconds(2));
      two.roll();
      for (int n = 0; n < 2; ++n) {
        two.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(3 + n));
        test::write_file(one.path(two.keys().back()), test::read_file(two.path(two.keys().back())));
      }
      const std::string first = two.keys()[two.keys().size() - 2];
      if (folded) {
        std::vector<replica::Segment> run;
        for (const auto& key : {first, two.keys().back()}) {
          const auto metadata = decode_metadata(test::read_file(two.path(key)));
          const Position position = names::parse_segment_key(key)->position;
          run.push_back({position, 0, {}, 0, position.offset + metadata->wal_size});
        }
        REQUIRE(compact(one, run, random));
      }
      const std::string text = f.error();
      CHECK(mentions(text, first));
      CHECK(mentions(text, "begins before"));
      CHECK(mentions(text, "-timestamp " + format_rfc3339(one.points().back().time)));
    }
  }
}

TEST_CASE("missing indexes are seen in the names") {
  test::Random random("missing indexes");
  Fixture f;
  History history(f.replica, {0xabc}, 1024, true, kBegin);
  for (int i = 1; i <= 4; ++i) {
    history.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(i));
    history.roll();
  }
  fs::remove(history.path(history.keys()[2]));
  fs::remove(history.path(history.keys()[3]));
  const std::string text = f.error();
  CHECK(mentions(text, history.keys()[4]));
  CHECK(mentions(text, "-timestamp " + format_rfc3339(history.points()[1].time)));
}

TEST_CASE("one flipped bit anywhere in an object is an error that names it") {
  test::Random random("one flipped bit");
  for (const bool ours : {true, false}) {
    Fixture f;
    History history(f.replica, {7}, 1024, ours, kBegin);
    for (int i = 1; i <= 3; ++i) {
      history.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(i));
    }
    for (const auto& key : history.keys()) {
      const std::string path = history.path(key);
      const Bytes good = test::read_file(path);
      for (int n = 0; n < 60; ++n) {
        Bytes bad = good;
        const auto bit = random.between(0, static_cast<std::uint32_t>(bad.size() * 8 - 1));
        bad[bit / 8] ^= static_cast<std::uint8_t>(1U << bit % 8);
        test::write_file(path, bad);
        CAPTURE(bit);
        const std::string text = f.error();
        // Some bits change nothing: a match in a run of zeros may point elsewhere in it, and the
        // magic number of a skippable frame may end in any digit.
        if (text.empty() && f.restored(history.image())) continue;
        CHECK(mentions(text, key));
      }
      test::write_file(path, good);
    }
    Bytes cut = test::read_file(history.path(history.keys()[2]));
    cut.pop_back();
    test::write_file(history.path(history.keys()[2]), cut);
    CHECK(mentions(f.error(), history.keys()[2]));
  }
}

// Right behind the frame's header; all that is read of it after that is its checksum.
void damage_metadata(const std::string& path) {
  Bytes object = test::read_file(path);
  object[20] ^= 1;
  test::write_file(path, object);
}

// When a store says that it got an object.
enum class Stored { as_committed, in_whole_seconds, an_hour_before, an_hour_behind, all_today };

void store_at(const History& history, Stored stored) {
  if (stored == Stored::all_today) return;
  for (const auto& key : history.keys()) {
    Time time = decode_metadata(test::read_file(history.path(key)))->last_commit;
    if (stored == Stored::in_whole_seconds) time = std::chrono::floor<std::chrono::seconds>(time);
    if (stored == Stored::an_hour_before) time -= std::chrono::hours(1);
    if (stored == Stored::an_hour_behind) time += std::chrono::hours(1);
    const auto ns = time.time_since_epoch().count();
    const timespec at{ns / 1'000'000'000, ns % 1'000'000'000};
    const timespec times[2] = {at, at};
    REQUIRE(::utimensat(AT_FDCWD, history.path(key).c_str(), times, 0) == 0);
  }
}

RestoreOptions as_advised(const std::string& text) {
  const std::string generation = " -generation ", timestamp = " -timestamp ";
  const auto from = text.find(generation) + generation.size();
  const auto at = text.find(timestamp);
  RestoreOptions options = until(*parse_rfc3339(text.substr(at + timestamp.size())));
  options.generation = Generation::parse(text.substr(from, at - from));
  return options;
}

TEST_CASE("damaged metadata is only in the way of the moments behind it") {
  test::Random random("damaged metadata");
  for (const Stored stored : {Stored::as_committed, Stored::in_whole_seconds,
                              Stored::an_hour_before, Stored::an_hour_behind, Stored::all_today}) {
    for (const bool folded : {false, true}) {
      Fixture f;
      History history(f.replica, {0xabc}, 1024, true, kBegin);
      for (int i = 1; i <= 8; ++i) {
        history.batch(random_images(random, 1024, 40), 40, 1,
                      kBegin + i * std::chrono::milliseconds(300));
        if (i == 5) history.roll();
      }
      if (folded) compact_some(history, random, true);
      const auto& points = history.points();  // each is the end of the key with its number
      for (std::size_t first = 1; first < points.size(); ++first) {
        for (const std::size_t count : {1, 3}) {
          const std::size_t behind = std::min(first + count, points.size());
          std::vector<Bytes> good;
          store_at(history, stored);
          for (std::size_t n = first; n < behind; ++n) {
            const std::string path = history.path(history.keys()[n]);
            const auto time = fs::last_write_time(path);
            good.push_back(test::read_file(path));
            damage_metadata(path);
            fs::last_write_time(path, time);
          }
          CAPTURE(static_cast<int>(stored));
          CAPTURE(folded);
          CAPTURE(first);
          CAPTURE(count);
          if (const std::string text = f.error(); !text.empty()) {
            CHECK(mentions(text, history.keys()[first]));
            REQUIRE(mentions(text, " -generation "));
            CHECK(f.restore(as_advised(text)).commit_time == points[first - 1].time);
            CHECK(f.restored(points[first - 1].image));
          }
          for (std::size_t n = 0; n < points.size(); ++n) {
            CAPTURE(n);
            std::string said;
            log::set_sink([&](log::Level, std::string_view line) { said += line; },
                          log::Level::warn);
            const std::string text = f.error(until(points[n].time));
            log::set_sink({});
            if (text.empty() && f.restored(points[n].image)) continue;
            // Only what is before the damage, and that is said.
            REQUIRE(n >= first);
            CHECK(mentions(said + text, "is damaged"));
            if (folded && text.empty()) {
              CHECK(std::any_of(
                  points.begin() + static_cast<std::ptrdiff_t>(first - 1),
                  points.begin() + static_cast<std::ptrdiff_t>(n),
                  [&](const History::Point& point) { return f.restored(point.image); }));
            }
            if (folded) continue;
            CHECK(mentions(said + text, history.keys()[first]));
            if (text.empty()) CHECK(f.restored(points[first - 1].image));
            // It is an error where what was asked for was there: by the store, or what is behind
            // it.
            const bool store_tells =
                stored != Stored::an_hour_behind && stored != Stored::all_today;
            CHECK((!text.empty() || (!store_tells && (n == first || count > 1))));
          }
          for (std::size_t n = first; n < behind; ++n) {
            test::write_file(history.path(history.keys()[n]), good[n - first]);
          }
        }
      }
    }
  }
}

TEST_CASE("a snapshot with damaged metadata is done without for a moment") {
  test::Random random("damaged snapshot");
  Fixture f;
  History history(f.replica, {0xabc}, 1024, true, kBegin);
  for (int i = 1; i <= 12; ++i) {
    history.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(i));
    if (i % 3 == 0) history.snapshot(kBegin + std::chrono::seconds(i));
  }
  std::vector<std::string> snapshots;
  for (const auto& key : history.keys()) {
    if (names::parse_snapshot_key(key)) snapshots.push_back(key);
  }
  for (std::uint32_t mask = 1; mask < 1U << snapshots.size(); ++mask) {
    std::vector<Bytes> good;
    std::size_t first = snapshots.size();
    for (std::size_t n = 0; n < snapshots.size(); ++n) {
      good.push_back(test::read_file(history.path(snapshots[n])));
      if ((mask >> n & 1) != 0) damage_metadata(history.path(snapshots[n]));
      if ((mask >> n & 1) == 0) first = std::min(first, n);
    }
    CAPTURE(mask);
    for (std::size_t n = 0; n < history.points().size(); ++n) {
      CAPTURE(n);
      const auto& point = history.points()[n];
      const std::string text = f.error(until(point.time));
      if (first < snapshots.size() && n >= first * 3) {
        CHECK(text == "");
        CHECK(f.restored(point.image));
      } else {
        CHECK(mentions(text, "is damaged"));
        CHECK((first == snapshots.size()) ==
              (text.find("the earliest moment") == std::string::npos));
      }
    }
    for (std::size_t n = 0; n < snapshots.size(); ++n) {
      test::write_file(history.path(snapshots[n]), good[n]);
    }
  }
}

TEST_CASE("a gap behind damaged metadata is advised to be left out with that") {
  test::Random random("a gap behind damage");
  Fixture f;
  History history(f.replica, {0xabc}, 1024, true, kBegin);
  for (int i = 1; i <= 4; ++i) {
    history.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(i));
    history.roll();
  }
  damage_metadata(history.path(history.keys()[2]));
  fs::remove(history.path(history.keys()[3]));
  const std::string text = f.error();
  CHECK(mentions(text, history.keys()[4]));
  f.restore(as_advised(text));
  CHECK(f.restored(history.points()[1].image));
}

TEST_CASE("nothing to restore, and generations that are not there") {
  Fixture f;
  CHECK(mentions(f.error(), "no matching backups found"));
  CHECK_THROWS_AS(f.restore(), NothingToRestore);
  History history(f.replica, {0xabc}, 1024, true, kBegin);
  RestoreOptions options;
  options.generation = Generation{0xdef};
  const std::string text = f.error(options);
  CHECK(mentions(text, "0000000000000def"));
  CHECK(mentions(text, "0000000000000abc"));
  options.generation.reset();
  options.index = 4;
  CHECK(mentions(f.error(options), "00000004"));
}

TEST_CASE("the generation: the newest, the one at a moment, the one asked for") {
  test::Random random("generations");
  Fixture f;
  const auto second = [](int n) { return kBegin + std::chrono::seconds(n); };
  History older(f.replica, {9}, 1024, false, second(0));
  older.batch(random_images(random, 1024, 40), 40, 1, second(10));
  History newer(f.replica, {2}, 1024, false, second(20));
  newer.batch(random_images(random, 1024, 40), 40, 1, second(30));
  f.restore();
  CHECK(f.restored(newer.image()));
  f.restore(until(second(15)));
  CHECK(f.restored(older.image()));
  RestoreOptions options;
  options.generation = Generation{9};
  f.restore(options);
  CHECK(f.restored(older.image()));

  History overlapping(f.replica, {5}, 1024, false, second(25));
  const std::string text = f.error(until(second(25)));
  CHECK(mentions(text, Generation{5}.str()));
  CHECK(mentions(text, Generation{2}.str()));
}

// As S3 has it: in whole seconds, when it was put.
void put_at(const std::string& path, Time time) {
  const timespec at{time.time_since_epoch().count() / 1'000'000'000, 0};
  const timespec times[2] = {at, at};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
}

void put_at(const History& history, Time time) {
  for (const auto& key : history.keys()) put_at(history.path(key), time);
}

TEST_CASE("segments without their snapshot are no sign that nothing was backed up") {
  test::Random random("stranded");
  Fixture f;
  const auto second = [](int n) { return kBegin + std::chrono::seconds(n); };
  History before(f.replica, {0xf}, 1024, true, second(90));
  before.batch(random_images(random, 1024, 40), 40, 1, second(95));
  put_at(before, second(95));
  fs::remove(before.path(before.keys().front()));
  History lost(f.replica, {1}, 1024, true, second(100));
  for (const int n : {105, 110}) lost.batch(random_images(random, 1024, 40), 40, 1, second(n));
  put_at(lost, second(110));
  put_at(lost.path(lost.keys()[1]), second(105));
  fs::remove(lost.path(lost.keys().front()));
  CHECK_THROWS_AS(f.restore(), Error);
  try {
    f.restore();
  } catch (const NothingToRestore&) {
    FAIL("a new database would begin");
  } catch (const Error&) {
  }
  CHECK(mentions(f.error(), "generation " + lost.generation().str()));
  CHECK(mentions(f.error(), format_rfc3339(second(110))));

  const auto warning = [&](const RestoreOptions& options) {
    std::string said;
    log::set_sink([&](log::Level, std::string_view line) { said += line; }, log::Level::warn);
    f.restore(options);
    log::set_sink({});
    return said;
  };
  SUBCASE("another generation is older: what is restored is not the latest") {
    History older(f.replica, {2}, 1024, true, second(10));
    put_at(older, second(10));
    CHECK(mentions(warning({}), lost.generation().str()));
    CHECK(f.restored(older.image()));
    CHECK(mentions(warning(until(second(105))), lost.generation().str()));
    CHECK(warning(until(second(10))) == "");
  }
  SUBCASE("another one is newer: it goes as retention lets it go") {
    History newer(f.replica, {2}, 1024, true, second(120));
    put_at(newer, second(120));
    CHECK(warning({}) == "");
    CHECK(f.restored(newer.image()));
  }
  SUBCASE("the folder of a snapshot that was never finished") {
    for (const History* one : {&before, &lost}) {
      fs::remove_all(f.replica + "/generations/" + one->generation().str() + "/wal");
    }
    CHECK_THROWS_AS(f.restore(), NoBackup);
  }
}

// Somebody deletes the oldest objects in front of the first reads.
class Deleting : public FaultStore {
 public:
  Deleting(std::unique_ptr<Store> store, asio::any_io_executor executor,
           std::vector<std::vector<std::string>> keys)
      : FaultStore(std::move(store), std::move(executor)), keys_(std::move(keys)) {}

  asio::awaitable<Bytes> get(std::string key, std::optional<ByteRange> range) override {
    if (next_ < keys_.size() &&
        std::find(keys_[next_].begin(), keys_[next_].end(), key) != keys_[next_].end()) {
      co_await remove(keys_[next_++]);
    }
    co_return co_await FaultStore::get(std::move(key), range);
  }

 private:
  std::vector<std::vector<std::string>> keys_;
  std::size_t next_ = 0;
};

TEST_CASE("what retention deletes while a moment is looked for is listed anew") {
  test::Random random("retention beside a restore");
  Fixture f;
  History history(f.replica, {5}, 1024, true, kBegin);
  for (int i = 1; i <= 12; ++i) {
    history.batch(random_images(random, 1024, 40), 40, 1, kBegin + std::chrono::seconds(i));
    if (i % 4 == 0) history.snapshot(kBegin + std::chrono::seconds(i));
  }
  const auto& keys = history.keys();
  REQUIRE(keys.size() == 16);
  asio::io_context io(1);
  StoreSettings settings;
  settings.path = f.replica;
  // A snapshot, 4 segments, and so on: each deletion is of a snapshot and what goes with it.
  Deleting store(make_store(settings, io.get_executor()), io.get_executor(),
                 {{keys.begin(), keys.begin() + 5}, {keys.begin() + 5, keys.begin() + 10}});
  RestoreOptions options;
  options.output = f.output;
  options.compacted = false;
  asio::thread_pool workers(2);
  SUBCASE("a moment that is there in the end") {
    options.timestamp = history.points()[11].time;
    test::run(io, sqlstream::restore(store, options, workers, {}));
    CHECK(f.restored(history.points()[11].image));
  }
  SUBCASE("one that is gone in the end") {
    options.timestamp = history.points()[2].time;
    CHECK_THROWS_AS(test::run(io, sqlstream::restore(store, options, workers, {})),
                    NothingToRestore);
    CHECK(fs::is_empty(fs::path(f.output).parent_path()));
  }
}

TEST_CASE("the newest generation, where the times of the objects do not tell it") {
  test::Random random("succession");
  Fixture f;
  const auto second = [](int n) { return kBegin + std::chrono::seconds(n); };
  const auto warning = [&] {
    std::string said;
    log::set_sink([&](log::Level, std::string_view line) { said += line; }, log::Level::warn);
    f.restore();
    log::set_sink({});
    return said;
  };
  // By a clock that was ahead.
  History older(f.replica, {9}, 1024, true, second(86400));
  older.batch(random_images(random, 1024, 40), 40, 1, second(86410));
  put_at(older, second(86410));
  std::optional<History> newer;

  SUBCASE("it was begun behind the other one's end") {
    newer.emplace(f.replica, Generation{2}, 1024, true, second(20), older.end());
    newer->batch(random_images(random, 1024, 40), 40, 1, second(30));
    put_at(*newer, second(30));
    CHECK(warning() == "");
    CHECK(f.restored(newer->image()));
    f.restore(until(second(99999)));
    CHECK(f.restored(newer->image()));
    // What somebody's upload left in the middle is not gone on with.
    older.batch(random_images(random, 1024, 40), 40, 3, second(86420));
    fs::remove(older.path(older.keys().back()));
    CHECK(warning() == "");
    CHECK(f.restored(newer->image()));
    for (std::size_t n = 2; n < older.keys().size(); ++n) fs::remove(older.path(older.keys()[n]));
    // What is damaged tells nothing; and it is said when it is what is restored.
    Bytes object = test::read_file(older.path(older.keys()[1]));
    object[20] ^= 1;
    test::write_file(older.path(older.keys()[1]), object);
    for (const int n : {0, 1}) put_at(older.path(older.keys()[n]), second(10));
    CHECK(warning() == "");
    CHECK(f.restored(newer->image()));
    put_at(older.path(older.keys()[1]), second(86410));
    CHECK(mentions(f.error(), older.keys()[1]));
  }
  SUBCASE("the other one went on") {
    newer.emplace(f.replica, Generation{2}, 1024, true, second(20), older.end());
    older.batch(random_images(random, 1024, 40), 40, 1, second(86420));
    put_at(*newer, second(86405));
    put_at(older, second(86420));
    CHECK(warning() == "");
    CHECK(f.restored(older.image()));
  }
  SUBCASE("its commits are later, but it was stored within the same second") {
    newer.emplace(f.replica, Generation{2}, 1024, true, second(86411));
    put_at(*newer, second(86410));
    CHECK(warning() == "");
    CHECK(f.restored(newer->image()));
  }
  SUBCASE("its commits are later, but it was stored before: that is said") {
    newer.emplace(f.replica, Generation{2}, 1024, true, second(86411));
    put_at(*newer, second(86409));
    const std::string said = warning();
    CHECK(f.restored(older.image()));
    CHECK(mentions(said, older.generation().str()));
    CHECK(mentions(said, newer->generation().str()));
    CHECK(mentions(said, "-generation"));
  }
}

TEST_CASE("a damaged generation is not in the way of a moment in another one that is chosen") {
  test::Random random("damaged span");
  Fixture f;
  const auto second = [](int n) { return kBegin + std::chrono::seconds(n); };
  History older(f.replica, {9}, 1024, true, second(0));
  const std::string damaged = older.path(older.keys().front());
  Bytes object = test::read_file(damaged);
  object[20] ^= 1;
  test::write_file(damaged, object);
  // There is no other one.
  CHECK(f.error(until(second(25))).find("-generation") == std::string::npos);

  History newer(f.replica, {2}, 1024, true, second(20));
  newer.batch(random_images(random, 1024, 40), 40, 1, second(30));
  const std::string said = f.error(until(second(30)));
  CHECK(mentions(said, older.keys().front()));
  CHECK(mentions(said, "-generation"));
  RestoreOptions options = until(second(30));
  options.generation = newer.generation();
  f.restore(options);
  CHECK(f.restored(newer.image()));
}

TEST_CASE("what was broken off in the middle of a transaction is not the latest commit") {
  test::Random random("broken off");
  Fixture f;
  const auto second = [](int n) { return kBegin + std::chrono::seconds(n); };
  History history(f.replica, {9}, 1024, true, second(0));
  const auto latest = [&] {
    asio::io_context io(1);
    StoreSettings settings;
    settings.path = f.replica;
    const auto store = make_store(settings, io.get_executor());
    return test::run(io, find_target(*store, {})).latest;
  };
  const auto break_off = [&](int time) {
    History::Images images;
    for (std::uint32_t page = 2; page <= 40; ++page) images.emplace_back(page, random.bytes(1024));
    history.batch(images, 40, 3, second(time));
    fs::remove(history.path(history.keys().back()));
  };
  CHECK(latest() == second(0));
  SUBCASE("behind the snapshot") {
    break_off(10);
    CHECK(latest() == second(0));
  }
  SUBCASE("behind another one") {
    history.batch(random_images(random, 1024, 40), 40, 2, second(10));
    break_off(20);
    CHECK(latest() == second(10));
    f.restore();
    CHECK(f.restored(history.points()[1].image));
  }
}

TEST_CASE("what is folded when its generation has ended does not make that the newest") {
  test::Random random("late fold");
  Fixture f;
  const auto second = [](int n) { return kBegin + std::chrono::seconds(n); };
  History older(f.replica, {9}, 1024, true, second(0));
  std::vector<replica::Segment> run;
  for (int n = 1; n <= 32; ++n) {
    auto images = random_images(random, 1024, 40);
    // The last one is longer than the end that is listed first.
    for (std::uint32_t page = 41; n == 32 && page <= 400; ++page) {
      images.emplace_back(page, random.bytes(1024));
    }
    older.batch(images, n == 32 ? 400 : 40, 1, second(n));
    const auto name = names::parse_segment_key(older.keys().back());
    run.push_back({name->position, 0, {}, 0, older.points().back().position.offset});
  }
  for (std::size_t n = 0; n < older.keys().size(); ++n) {
    put_at(older.path(older.keys()[n]), second(static_cast<int>(n)));
  }
  History newer(f.replica, {2}, 1024, true, second(40));
  put_at(newer.path(newer.keys().back()), second(40));
  const auto folded = compact(older, run, random);
  REQUIRE(folded);
  put_at(older.path(key_of(older.generation(), *folded)), second(50));

  f.restore();
  CHECK(f.restored(newer.image()));
  // Nor where the segments are gone that it stands for.
  for (const auto& segment : run) fs::remove(older.path(key_of(older.generation(), segment)));
  f.restore();
  CHECK(f.restored(newer.image()));

  // What it holds counts all the same.
  put_at(newer.path(newer.keys().back()), second(20));
  f.restore();
  CHECK(f.restored(older.image()));
}

TEST_CASE("what exists beside the output is never touched") {
  Fixture f;
  History history(f.replica, {7}, 1024, true, kBegin);
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
    const std::string path = f.output + suffix;
    test::write_file(path, as_bytes("precious"));
    try {
      f.restore_keeping();
      FAIL("restored over " << path);
    } catch (const Error& error) {
      const std::string text = error.what();
      CHECK(mentions(text, path));
      if (*suffix == '\0') CHECK(text.starts_with("cannot restore, output path already exists"));
    }
    CHECK(test::read_file(path) == Bytes{'p', 'r', 'e', 'c', 'i', 'o', 'u', 's'});
    fs::remove(path);
    CHECK(fs::is_empty(f.folder.path() + "/out"));
  }
}

TEST_CASE("a file too large to write leaves nothing behind") {
  test::Random random("a file too large");
  Fixture f;
  History history(f.replica, {7}, 4096, true, kBegin);
  history.batch({{400, random.bytes(4096)}}, 400, 1, kBegin + std::chrono::seconds(1));
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  rlimit limit = before;
  limit.rlim_cur = 1 << 20;
  std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &limit);
  const std::string text = f.error();
  ::setrlimit(RLIMIT_FSIZE, &before);
  CHECK(mentions(text, f.output));
  CHECK(mentions(text, "larger than this process may write"));
}

TEST_CASE("a restored file has the mode of a new one") {
  Fixture f;
  History history(f.replica, {7}, 1024, true, kBegin);
  const mode_t before = ::umask(027);
  f.restore();
  ::umask(before);
  struct stat st {};
  REQUIRE(::stat(f.output.c_str(), &st) == 0);
  CHECK((st.st_mode & 07777) == 0640);
}

TEST_CASE("or the one that was asked for, whatever the umask") {
  Fixture f;
  History history(f.replica, {7}, 1024, true, kBegin);
  RestoreOptions options;
  options.mode = 0600;
  const mode_t before = ::umask(0);
  f.restore(options);
  ::umask(before);
  struct stat st {};
  REQUIRE(::stat(f.output.c_str(), &st) == 0);
  CHECK((st.st_mode & 07777) == 0600);
}

}  // namespace

TEST_CASE("a restore to a temporary file names nothing and is gone with its result") {
  Fixture f;
  test::Random random("a temporary file");
  History history(f.replica, {7}, 1024, true, kBegin);
  history.batch({{1, random.bytes(1024)}}, 20, 1, kBegin);
  {
    RestoreOptions options;
    options.temporary = true;
    const RestoreResult result = f.restore(std::move(options));
    CHECK(test::read_file(result.output) == history.image());
    CHECK_FALSE(fs::exists(f.output));
    CHECK((fs::status(result.output).permissions() & fs::perms::all) ==
          (fs::perms::owner_read | fs::perms::owner_write));
  }
  CHECK(fs::is_empty(f.folder.path() + "/out"));
}

TEST_CASE("what a killed restore left behind is removed, what another one writes is not") {
  Fixture f;
  const auto hidden = [&] {
    std::size_t count = 0;
    const auto folder = std::filesystem::path(f.output).parent_path();
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().filename().string().starts_with('.')) ++count;
    }
    return count;
  };
  TargetFile other(f.output);
  const auto name = std::filesystem::path(f.output).filename().string();
  test::write_file((std::filesystem::path(f.output).parent_path() /
                    ('.' + name + ".sqlstream-restore-0123456789abcdef"))
                       .string(),
                   {});
  CHECK(hidden() == 2);
  {
    const TargetFile again(f.output);
    CHECK(hidden() == 2);
  }
  CHECK(hidden() == 1);
  // Of one that was killed beside this one.
  test::write_file((std::filesystem::path(f.output).parent_path() /
                    ('.' + name + ".sqlstream-restore-fedcba9876543210"))
                       .string(),
                   {});
  other.publish();
  CHECK(hidden() == 0);
}

}  // namespace sqlstream
