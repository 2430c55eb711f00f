#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "base/error.h"
#include "format/merged_pages.h"
#include "format/out_of_order.h"
#include "format/wal.h"
#include "test/unit/format/files.h"
#include "test/unit/format/random.h"
#include "test/unit/format/sqlite.h"

// The WAL codec against SQLite itself, both ways: what SQLite wrote is read here, and what is
// written here is recovered by SQLite to the pages of the source.

namespace sqlstream {
namespace {

using test::Database;

constexpr std::uint32_t kPageSizes[] = {512, 1024, 2048, 4096, 8192, 16384, 32768, 65536};

struct Frame {
  std::uint32_t page;
  Bytes data;
};

// The frames of one commit.
struct Commit {
  std::uint32_t size = 0;
  std::vector<Frame> frames;
};

// What a database was at first, what SQLite then wrote to its WAL, and what it is after a
// checkpoint of that.
struct Source {
  Bytes snapshot;
  Bytes wal;
  Bytes result;
};

// A table of so many rows.
std::string rows(std::uint32_t count) {
  return "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < " +
         std::to_string(count) + ") SELECT x FROM n)";
}

Source make_source(test::Random& random, const test::TempFolder& folder, std::uint32_t page_size) {
  const std::string path = folder.file("source.db");
  Source source;
  {
    Database db(path);
    db.exec("PRAGMA page_size=" + std::to_string(page_size));
    db.exec("PRAGMA journal_mode=WAL");
    db.exec("PRAGMA wal_autocheckpoint=0");
    db.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)");
    db.exec("CREATE INDEX i ON t(v)");
    db.exec("INSERT INTO t(v) SELECT randomblob(60) FROM " + rows(100));
    db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    source.snapshot = test::read_file(path);
    REQUIRE(source.snapshot.size() % page_size == 0);
    for (int n = 0; n < 12; ++n) {
      const std::uint32_t some = random.between(1, 40);
      const std::string number = std::to_string(some);
      switch (random.between(1, 6)) {
        case 1:
          db.exec("INSERT INTO t(v) SELECT randomblob(80) FROM " + rows(some));
          break;
        case 2:
          db.exec("UPDATE t SET v = randomblob(70) WHERE id % " + number + " = 0");
          break;
        case 3:
          db.exec("DELETE FROM t WHERE id % 3 = 1 AND id < 5 * " + number);
          break;
        case 4:
          db.exec("INSERT INTO t(v) VALUES(zeroblob(20000)), (randomblob(5 * " +
                  std::to_string(page_size) + "))");
          break;
        case 5:
          db.exec("CREATE TABLE IF NOT EXISTS t" + number + " AS SELECT * FROM t LIMIT 30");
          break;
        default:
          db.exec("DELETE FROM t WHERE id > 10; VACUUM");
          break;
      }
    }
    source.wal = test::read_file(path + "-wal");
    db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    source.result = test::read_file(path);
  }
  std::filesystem::remove(path);
  return source;
}

std::vector<Commit> decode(ByteView wal, test::Random& random, std::uint32_t largest_piece,
                           wal::Decoder& decoder) {
  std::vector<Commit> commits(1);
  while (!wal.empty()) {
    ByteView piece = random.take_piece(wal, largest_piece);
    while (const auto frame = decoder.next(piece)) {
      commits.back().frames.push_back({frame->page, {frame->data.begin(), frame->data.end()}});
      if (frame->commit_size == 0) continue;
      commits.back().size = frame->commit_size;
      commits.emplace_back();
    }
  }
  REQUIRE(decoder.at_frame_boundary());
  REQUIRE(commits.back().frames.empty());
  commits.pop_back();
  return commits;
}

// Puts `wal` beside `snapshot`, lets SQLite recover and checkpoint it, and gives the database.
Bytes recover(const test::TempFolder& folder, ByteView snapshot, ByteView wal) {
  const std::string path = folder.file("recovered.db");
  test::write_file(path, snapshot);
  test::write_file(path + "-wal", wal);
  {
    Database db(path);
    CHECK(db.value("PRAGMA integrity_check") == "ok");
    CHECK(db.value("PRAGMA wal_checkpoint(TRUNCATE)") == "0");
  }
  CHECK(!std::filesystem::exists(path + "-wal"));
  Bytes result = test::read_file(path);
  std::filesystem::remove(path);
  return result;
}

// Random groups of commits, each folded to one image per page, as one virtual WAL.
Bytes encode_folded(const std::vector<Commit>& commits, std::uint32_t page_size,
                    test::Random& random) {
  Bytes wal;
  wal::Encoder encoder(page_size, {random.word(), random.word()}, 0, wal);
  for (auto it = commits.begin(); it != commits.end();) {
    const auto n = std::min<std::ptrdiff_t>(random.between(1, 4), commits.end() - it);
    MergedPages<const Bytes*> merged;
    for (const auto end = it + n; it != end; ++it) {
      merged.begin_batch(it->size);
      for (const auto& frame : it->frames) merged.add(frame.page, &frame.data);
    }
    CHECK(merged.cleared().empty());
    const auto pages = merged.sorted();
    REQUIRE(!pages.empty());
    for (const auto& [number, image] : pages) {
      encoder.append(number, number == pages.back().first ? merged.database_size() : 0, *image,
                     wal);
    }
  }
  return wal;
}

// The same frames with the other byte order of checksums, laid out by hand.
Bytes with_big_endian_checksums(ByteView wal) {
  Bytes bytes(wal.begin(), wal.end());
  store_be32(bytes.data(), 0x377f0683);
  const auto put_sum = [](std::uint8_t* at, wal::Checksum sum) {
    store_be32(at, sum[0]);
    store_be32(at + 4, sum[1]);
  };
  wal::Checksum sum = wal::checksum({}, ByteView(bytes).first(24), true);
  put_sum(bytes.data() + 24, sum);
  const std::size_t page_size = load_be32(bytes.data() + 8);
  for (std::size_t at = 32; at < bytes.size(); at += 24 + page_size) {
    sum = wal::checksum(sum, ByteView(bytes).subspan(at, 8), true);
    sum = wal::checksum(sum, ByteView(bytes).subspan(at + 24, page_size), true);
    put_sum(bytes.data() + at + 16, sum);
  }
  return bytes;
}

// Newest commit first, the snapshot last.
Bytes apply_newest_first(const Source& source, const std::vector<Commit>& commits,
                         std::uint32_t page_size) {
  NewestFirst order(page_size);
  Bytes image;
  const auto put = [&](std::uint32_t page, ByteView data) {
    image.resize(std::size_t{order.final_size()} * page_size);
    if (order.take(page)) {
      std::copy(data.begin(), data.end(),
                image.begin() + static_cast<std::ptrdiff_t>(std::size_t{page - 1} * page_size));
    }
  };
  for (auto commit = commits.rbegin(); commit != commits.rend(); ++commit) {
    order.begin_batch(commit->size);
    for (auto frame = commit->frames.rbegin(); frame != commit->frames.rend(); ++frame) {
      put(frame->page, frame->data);
    }
  }
  const auto pages = static_cast<std::uint32_t>(source.snapshot.size() / page_size);
  order.begin_batch(pages);
  for (std::uint32_t page = 1; page <= pages; ++page) {
    put(page, ByteView(source.snapshot).subspan(std::size_t{page - 1} * page_size, page_size));
  }
  return image;
}

// Calls check(folder, source, commits, decoder) for a source of each page size.
template <class Check>
void at_every_page_size(test::Random& random, Check check) {
  for (const auto page_size : kPageSizes) {
    CAPTURE(page_size);
    const test::TempFolder folder;
    const Source source = make_source(random, folder, page_size);
    wal::Decoder decoder;
    const auto commits = decode(source.wal, random, random.one_in(2) ? 100'000 : 700, decoder);
    REQUIRE(decoder.header()->page_size == page_size);
    REQUIRE(decoder.offset() == source.wal.size());
    REQUIRE(commits.size() >= 2);
    REQUIRE(std::size_t{commits.back().size} * page_size == source.result.size());
    check(folder, source, commits, *decoder.header());
  }
}

TEST_CASE("a virtual WAL beside the snapshot is recovered by SQLite to the source's pages") {
  test::Random random("virtual WAL");
  at_every_page_size(random, [&](const auto& folder, const Source& source, const auto& commits,
                                 const wal::Header& header) {
    const Bytes wal = encode_folded(commits, header.page_size, random);
    CHECK(wal.size() <= source.wal.size());
    CHECK(recover(folder, source.snapshot, wal) == source.result);
  });
}

TEST_CASE("frames are encoded as SQLite encodes them") {
  test::Random random("SQLite's own frames");
  at_every_page_size(random, [](const auto&, const Source& source, const auto& commits,
                                const wal::Header& header) {
    Bytes wal;
    wal::Encoder encoder(header.page_size, header.salt, header.checkpoint_sequence, wal);
    for (const Commit& commit : commits) {
      for (const Frame& frame : commit.frames) {
        const bool last = &frame == &commit.frames.back();
        encoder.append(frame.page, last ? commit.size : 0, frame.data, wal);
      }
    }
    // SQLite writes the machine's byte order, the encoder always the little one.
    CHECK((header.big_endian_checksums ? with_big_endian_checksums(wal) : wal) == source.wal);
  });
}

TEST_CASE("checksums of the other byte order are read as SQLite reads them") {
  test::Random random("big-endian checksums");
  at_every_page_size(random, [&](const auto& folder, const Source& source, const auto& commits,
                                 const wal::Header& header) {
    const Bytes wal = with_big_endian_checksums(encode_folded(commits, header.page_size, random));
    CHECK(recover(folder, source.snapshot, wal) == source.result);
    wal::Decoder decoder;
    const auto read = decode(wal, random, 50'000, decoder);
    CHECK(decoder.header()->big_endian_checksums);
    CHECK(apply_newest_first(source, read, header.page_size) == source.result);
  });
}

TEST_CASE("applied newest first, SQLite's commits give SQLite's database") {
  test::Random random("newest first");
  at_every_page_size(random, [](const auto&, const Source& source, const auto& commits,
                                const wal::Header& header) {
    CHECK(apply_newest_first(source, commits, header.page_size) == source.result);
  });
}

}  // namespace
}  // namespace sqlstream
