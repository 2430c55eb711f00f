#include "restore/database_image.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <sys/resource.h>
#include <thread>
#include <utility>

#include <doctest/doctest.h>

#include "format/lz4_frame.h"
#include "format/wal.h"
#include "restore/replay.h"
#include "test/unit/config/temp_folder.h"
#include "test/unit/format/random.h"
#include "test/unit/restore/history.h"

namespace sqlstream {
namespace {

using config::testing::TempFolder;

TEST_CASE("it is crowded while the WAL is ahead of the snapshot in very many places") {
  constexpr std::uint32_t kPageSize = 512;
  const TempFolder folder;
  TargetFile target(folder.path() + "/db");
  DatabaseImage image(target);
  image.set_page_size(kPageSize);
  const Bytes page(kPageSize);
  for (std::uint32_t i = 0; i < DatabaseImage::kMostChunks; ++i) {
    CHECK_FALSE(image.crowded());
    image.write_page(1 + i * 4096, page);
    image.write_page(2 + i * 4096, page);
  }
  CHECK(image.crowded());
  image.write_snapshot(Bytes(std::size_t{kPageSize} * 8192));  // what is behind it is forgotten
  CHECK_FALSE(image.crowded());
  image.write_page(3 + (DatabaseImage::kMostChunks + 1) * 4096, page);
  image.write_page(3 + (DatabaseImage::kMostChunks + 2) * 4096, page);
  CHECK(image.crowded());
  image.end_snapshot();
  CHECK_FALSE(image.crowded());
  CHECK_FALSE(image.crowded(1 << 30));
}

TEST_CASE("the WAL waits for the snapshot with very many frames of one transaction") {
  constexpr std::uint32_t kPageSize = 512;
  const TempFolder folder;
  TargetFile target(folder.path() + "/db");
  DatabaseImage image(target);
  image.set_page_size(kPageSize);
  WalReplay replay(image, target);
  Bytes frames;
  lz4::Compressor compressor;
  Bytes stored;
  wal::Encoder encoder(kPageSize, {1, 2}, 0, frames);
  const auto content = [](std::uint32_t page) {
    return Bytes(kPageSize, static_cast<std::uint8_t>(page % 251));
  };
  const auto feed = [&](std::uint32_t first, std::uint32_t last, std::uint32_t commit_size) {
    for (std::uint32_t page = first; page <= last; ++page) {
      encoder.append(page, page == last ? commit_size : 0, content(page), frames);
      compressor.write(std::exchange(frames, {}), stored);
    }
    if (commit_size != 0) compressor.finish(stored);
    replay.write(std::exchange(stored, {}));
  };
  constexpr std::uint32_t kMany = 4 * DatabaseImage::kMostChunks;
  replay.begin({}, std::nullopt);
  feed(1, kMany - 1, 0);
  CHECK_FALSE(replay.waits());
  feed(kMany, kMany + 10'000, 0);
  CHECK(replay.waits());
  image.end_snapshot();
  CHECK_FALSE(replay.waits());
  feed(kMany + 10'001, kMany + 10'002, kMany + 10'002);
  replay.end();
  CHECK(image.finish() == kMany + 10'002);
  target.publish();
  std::ifstream written(folder.path() + "/db", std::ios::binary);
  Bytes page(kPageSize);
  for (std::uint32_t number = 1; number <= kMany + 10'002; ++number) {
    written.read(reinterpret_cast<char*>(page.data()), kPageSize);
    if (page != content(number)) FAIL("page " << number);
  }
}

TEST_CASE("a snapshot and a WAL written at the same time give what one after the other gives") {
  constexpr std::uint32_t kPageSize = 512;
  test::Random random("snapshot and WAL at once");
  const TempFolder folder;
  for (int round = 0; round < 60; ++round) {
    const std::uint32_t snapshot_pages = random.between(1, 6000);
    const Bytes snapshot = random.bytes(std::size_t{snapshot_pages} * kPageSize);
    struct Batch {
      std::uint32_t size;
      std::vector<std::uint32_t> pages;
      std::uint8_t fill;
    };
    std::vector<Batch> batches;
    Bytes expected = snapshot;
    for (std::uint32_t n = random.between(0, 60); n > 0; --n) {
      Batch batch{random.one_in(6) ? random.between(1, 3000) : random.between(3000, 7000),
                  {},
                  static_cast<std::uint8_t>(random.between(1, 255))};
      for (std::uint32_t i = random.between(1, 200); i > 0; --i) {
        batch.pages.push_back(random.between(1, 7200));  // some beyond the size: dropped
      }
      for (const auto page : batch.pages) {
        const std::size_t begin = std::size_t{page - 1} * kPageSize;
        if (expected.size() < begin + kPageSize) expected.resize(begin + kPageSize);
        std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(begin), kPageSize, batch.fill);
      }
      expected.resize(std::size_t{batch.size} * kPageSize);
      batches.push_back(std::move(batch));
    }

    const std::string path = folder.path() + "/db" + std::to_string(round);
    {
      TargetFile target(path);
      DatabaseImage image(target);
      image.set_page_size(kPageSize);
      std::thread wal([&] {
        for (const auto& batch : batches) {
          const Bytes page(kPageSize, batch.fill);
          for (const auto number : batch.pages) image.write_page(number, page);
          image.commit(batch.size);
        }
      });
      ByteView rest = snapshot;
      while (!rest.empty()) {
        const std::size_t size =
            std::min<std::size_t>(rest.size(), std::size_t{random.between(1, 300)} * kPageSize);
        image.write_snapshot(rest.first(size));
        rest = rest.subspan(size);
      }
      image.end_snapshot();
      wal.join();
      CHECK(image.finish() == expected.size() / kPageSize);
      target.publish();
    }
    REQUIRE((test::read_file(path) == expected));
  }
}

TEST_CASE("when the snapshot cannot be written, the WAL does not wait for it") {
  constexpr std::uint32_t kPageSize = 4096;
  const TempFolder folder;
  // Shared with a thread that may hang: then the test is to fail, and go on.
  struct Restored {
    explicit Restored(std::string path) : target(std::move(path)) {
      image.set_page_size(kPageSize);
    }
    TargetFile target;
    DatabaseImage image{target};
    std::atomic<bool> failed = false;
  };
  std::function<void(DatabaseImage&)> step;
  SUBCASE("with a page") {
    step = [](DatabaseImage& image) { image.write_page(10, Bytes(kPageSize)); };
  }
  SUBCASE("with a commit that leaves less") {
    step = [](DatabaseImage& image) { image.commit(300); };
  }
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  rlimit limit = before;
  limit.rlim_cur = 1 << 20;
  std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &limit);
  bool ended = true;
  for (int round = 0; round < 20 && ended; ++round) {
    const auto restored = std::make_shared<Restored>(folder.path() + "/db" + std::to_string(round));
    // Before the window, in it, and once more behind its failure.
    std::packaged_task<void()> wal([restored, step] {
      for (bool last = false; !last;) {
        last = restored->failed;
        step(restored->image);
      }
    });
    const auto end = wal.get_future();
    std::thread(std::move(wal)).detach();
    CHECK_THROWS_AS(restored->image.write_snapshot(Bytes(2 << 20)), OutputError);
    restored->failed = true;
    ended = end.wait_for(std::chrono::seconds(10)) == std::future_status::ready;
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  CHECK(ended);
}

TEST_CASE("the lock-byte page is never written") {
  constexpr std::uint32_t kPageSize = 65536;
  constexpr std::uint32_t kLockPage = wal::lock_byte_page(kPageSize);
  const TempFolder folder;
  TargetFile target(folder.path() + "/db");
  DatabaseImage image(target);
  image.set_page_size(kPageSize);
  const Bytes page(kPageSize, 7);
  image.end_snapshot();
  for (const std::uint32_t number : {kLockPage - 1, kLockPage, kLockPage + 1}) {
    image.write_page(number, page);
  }
  image.commit(kLockPage + 1);
  CHECK(image.finish() == kLockPage + 1);
  target.publish();
  std::FILE* file = std::fopen((folder.path() + "/db").c_str(), "rb");
  REQUIRE(file != nullptr);
  Bytes read(3 * kPageSize);
  std::fseek(file, static_cast<long>(std::uint64_t{kLockPage - 2} * kPageSize), SEEK_SET);
  CHECK(std::fread(read.data(), 1, read.size(), file) == read.size());
  std::fclose(file);
  CHECK(std::count(read.begin(), read.begin() + kPageSize, 7) == kPageSize);
  CHECK(std::count(read.begin() + kPageSize, read.begin() + 2 * kPageSize, 0) == kPageSize);
  CHECK(std::count(read.begin() + 2 * kPageSize, read.end(), 7) == kPageSize);
}

}  // namespace
}  // namespace sqlstream
