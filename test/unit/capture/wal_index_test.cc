// Reading the wal-index that a real SQLite keeps.

#include "capture/wal_index.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>

#include "format/wal.h"
#include "support.h"

using namespace sqlstream;
using namespace sqlstream::capture;
using namespace sqlstream::testing;

TEST_CASE("regions that cover frames") {
  CHECK(regions_for(0) == 1);
  CHECK(regions_for(4062) == 1);
  CHECK(regions_for(4063) == 2);
  CHECK(regions_for(4062 + 4096) == 2);
  CHECK(regions_for(4062 + 4096 + 1) == 3);
  CHECK(regions_for(0xffffffff) == 0x100001);  // what a damaged header may say
}

TEST_CASE("every frame's page, over three regions") {
  const TempFolder folder;
  Sqlite db(folder.file("app.db"), 512);
  db.run("CREATE TABLE t(x)");
  db.run(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) "
      "INSERT INTO t SELECT randomblob(400) FROM n");
  UniqueFd wal;
  auto source = db.source(wal);
  REQUIRE(source.regions.size() == 1);
  const auto header = read_wal_index_header(source.regions[0]);
  REQUIRE(header);
  REQUIRE(header->frames > 4062 + 4096 + 1);
  CHECK(header->page_size == 512);
  CHECK(std::to_string(header->pages) == db.run("PRAGMA page_count"));
  CHECK(peek_change(source.regions[0]) == header->change);
  while (source.regions.size() < regions_for(header->frames)) {
    source.regions.push_back(source.map_more(source.regions.size()));
    const bool mapped = source.regions.back() != nullptr;
    REQUIRE(mapped);
  }
  std::uint32_t wrong = 0;
  wal::FrameHeader frame;
  for (std::uint32_t i = 1; i <= header->frames; ++i) {
    Bytes bytes(wal::kFrameHeaderSize);
    REQUIRE(::pread(wal.get(), bytes.data(), bytes.size(), 32 + std::int64_t{i - 1} * (24 + 512)) ==
            24);
    frame = wal::decode_frame_header(bytes);
    if (frame.page != page_of_frame(source.regions, i)) ++wrong;
  }
  CHECK(wrong == 0);
  CHECK(frame.sum == header->sum);
  CHECK(frame.salt == header->salt);
  CHECK(frame.commit_size == header->pages);
}

TEST_CASE("the largest page size") {
  const TempFolder folder;
  Sqlite db(folder.file("app.db"), 65536);
  db.run("CREATE TABLE t(x)");
  UniqueFd wal;
  const auto header = read_wal_index_header(db.source(wal).regions.at(0));
  REQUIRE(header);
  CHECK(header->page_size == 65536);
}

TEST_CASE("a wal-index that is not initialised has no header") {
  const std::vector<std::uint32_t> zeros(kRegionSize / 4);
  CHECK_FALSE(read_wal_index_header(zeros.data()));
}

TEST_CASE("two copies that differ, or are not initialised, or of another checksum are no header") {
  const TempFolder folder;
  Sqlite db(folder.file("app.db"));
  db.run("CREATE TABLE t(x)");
  UniqueFd wal;
  const auto* region = static_cast<const volatile std::uint32_t*>(db.source(wal).regions.at(0));
  std::vector<std::uint32_t> words(region, region + 24);
  REQUIRE(read_wal_index_header(words.data()));
  SUBCASE("the second copy is of another commit") {
    ++words[12 + 4];
  }
  SUBCASE("the checksum is not theirs") {
    ++words[4], ++words[12 + 4];
  }
  SUBCASE("they are not initialised") {
    reinterpret_cast<std::uint8_t*>(&words[3])[0] = 0;
    const auto sum =
        wal::checksum({}, {reinterpret_cast<const std::uint8_t*>(words.data()), 40}, false);
    words[10] = sum[0];
    words[11] = sum[1];
    std::copy_n(words.begin(), 12, words.begin() + 12);
  }
  CHECK_FALSE(read_wal_index_header(words.data()));
}

TEST_CASE("a header read while another thread commits is one that was written") {
  const TempFolder folder;
  const std::string path = folder.file("app.db");
  Sqlite db(path);
  db.run("CREATE TABLE t(x)");
  UniqueFd wal;
  const auto source = db.source(wal);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    Sqlite other(path);
    for (int i = 0; i < 3000; ++i) other.run("INSERT INTO t VALUES (1)");
    done = true;
  });
  std::uint32_t change = 0;
  std::uint32_t frames = 0;
  std::uint64_t seen = 0;
  std::uint64_t wrong = 0;
  while (!done) {
    const auto header = read_wal_index_header(source.regions[0]);
    if (!header) continue;
    ++seen;
    if (header->change < change || header->frames < frames) ++wrong;
    // One commit is one frame here, or two where the table grows: both move together.
    if ((header->change == change) != (header->frames == frames)) ++wrong;
    change = header->change;
    frames = header->frames;
    Bytes bytes(wal::kFrameHeaderSize);
    if (frames == 0) continue;
    if (::pread(wal.get(), bytes.data(), bytes.size(),
                32 + std::int64_t{frames - 1} * (24 + 4096)) != 24) {
      ++wrong;
      continue;
    }
    const auto frame = wal::decode_frame_header(bytes);
    if (frame.sum != header->sum || frame.commit_size != header->pages) ++wrong;
  }
  writer.join();
  CHECK(seen > 0);
  CHECK(wrong == 0);
}
