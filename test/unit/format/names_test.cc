#include "format/names.h"

#include <set>

#include <doctest/doctest.h>

#include "base/error.h"

namespace sqlstream {
namespace {

TEST_CASE("a generation is 16 lower-case hex digits") {
  CHECK(Generation{0x1a2b}.str() == "0000000000001a2b");
  CHECK(Generation::parse("0000000000001a2b") == Generation{0x1a2b});
  CHECK(Generation::parse("ffffffffffffffff") == Generation{~std::uint64_t{0}});
  for (const char* text :
       {"", "1a2b", "0000000000001A2b", "0000000000001a2", "0000000000001a2b0", "0000000000001a2g",
        " 000000000001a2b", "-000000000001a2b", "0x00000000001a2b", "0000000000001a2 "}) {
    CAPTURE(text);
    CHECK(!Generation::parse(text));
  }
  CHECK(!Generation::parse(std::string_view("000000000000\0001a2", 16)));
}

TEST_CASE("random generations differ") {
  std::set<Generation> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(Generation::random());
  CHECK(seen.size() == 1000);
}

TEST_CASE("keys are Litestream's") {
  const Generation g{0xc5f2a4d10b3e9786};
  CHECK(names::generation_prefix(g) == "generations/c5f2a4d10b3e9786/");
  CHECK(names::snapshots_prefix(g) == "generations/c5f2a4d10b3e9786/snapshots/");
  CHECK(names::wal_prefix(g) == "generations/c5f2a4d10b3e9786/wal/");
  CHECK(names::snapshot_key(g, 0x1f) ==
        "generations/c5f2a4d10b3e9786/snapshots/0000001f.snapshot.lz4");
  CHECK(names::segment_key(g, {0x1f, 0x1038}) ==
        "generations/c5f2a4d10b3e9786/wal/0000001f_00001038.wal.lz4");
}

TEST_CASE("an offset that eight digits cannot hold has no name") {
  CHECK(names::segment_key(Generation{1}, {0, 0xffffffff}) ==
        "generations/0000000000000001/wal/00000000_ffffffff.wal.lz4");
  CHECK_THROWS_AS(names::segment_key(Generation{1}, {0, 0x100000000}), Error);
}

TEST_CASE("keys read back") {
  for (const std::uint64_t id : {std::uint64_t{0}, std::uint64_t{0xdeadbeef}, ~std::uint64_t{0}}) {
    for (const std::uint32_t number : {0u, 1u, 0x9abcdefu, ~0u}) {
      const Generation g{id};
      const auto snapshot = names::parse_snapshot_key(names::snapshot_key(g, number));
      REQUIRE(snapshot.has_value());
      CHECK(snapshot->generation == g);
      CHECK(snapshot->index == number);
      const Position position{~number, number};
      const auto segment = names::parse_segment_key(names::segment_key(g, position));
      REQUIRE(segment.has_value());
      CHECK(segment->generation == g);
      CHECK(segment->position == position);
      CHECK(names::parse_generation(names::segment_key(g, position)) == g);
      CHECK(names::parse_generation(names::generation_prefix(g)) == g);
      CHECK(!names::parse_segment_key(names::snapshot_key(g, number)));
      CHECK(!names::parse_snapshot_key(names::segment_key(g, position)));
    }
  }
}

TEST_CASE("hostile keys are no names") {
  const std::string g = "generations/c5f2a4d10b3e9786/";
  for (const std::string& key :
       {std::string(), std::string("generations"), std::string("generations/"),
        std::string("generations/c5f2a4d10b3e9786"), std::string("/generations/c5f2a4d10b3e9786/"),
        std::string("../generations/c5f2a4d10b3e9786/"), std::string("generations/../"),
        std::string("generations/C5F2A4D10B3E9786/"), std::string("generations/c5f2a4d10b3e97860/"),
        std::string("generations/c5f2a4d10b3e978/"), std::string("generations//c5f2a4d10b3e9786/"),
        std::string("generations/.............../"),
        std::string("generations/c5f2a4d10b3e97 6/")}) {
    CAPTURE(key);
    CHECK(!names::parse_generation(key));
    CHECK(!names::parse_snapshot_key(key));
    CHECK(!names::parse_segment_key(key));
    CHECK(!names::parse_snapshot_key(key + "snapshots/00000000.snapshot.lz4"));
    CHECK(!names::parse_segment_key(key + "wal/00000000_00000000.wal.lz4"));
  }
  for (const char* rest :
       {"", "snapshots/", "snapshots/0000001f", "snapshots/0000001F.snapshot.lz4",
        "snapshots/000001f.snapshot.lz4", "snapshots/00000001f.snapshot.lz4",
        "snapshots/0000001f.snapshot.lz4.tmp", "snapshots/0000001f.snapshot",
        "snapshots/../0000001f.snapshot.lz4", "snapshots//0000001f.snapshot.lz4",
        "snapshots/0000001f_00000000.snapshot.lz4", "Snapshots/0000001f.snapshot.lz4",
        "snapshots/0000001f.snapshot.lz4/", "snapshots/-000001f.snapshot.lz4",
        "snapshots/../../../../etc/passwd", "wal/0000001f.snapshot.lz4"}) {
    CAPTURE(rest);
    CHECK(!names::parse_snapshot_key(g + rest));
  }
  for (const char* rest :
       {"", "wal/", "wal/0000001f_00001038", "wal/0000001f_00001038.wal", "wal/0000001f.wal.lz4",
        "wal/0000001F_00001038.wal.lz4", "wal/0000001f_0000103A.wal.lz4",
        "wal/0000001f_000001038.wal.lz4", "wal/0000001f_0001038.wal.lz4",
        "wal/0000001f-00001038.wal.lz4", "wal/0000001f_00001038.wal.lz4 ",
        "wal/0000001f_00001038.wal.lz4.tmp", "wal/../wal/0000001f_00001038.wal.lz4",
        "wal//0000001f_00001038.wal.lz4", "wal/0000001f_00001038_00000000.wal.lz4",
        "wal/0000001f_+0001038.wal.lz4", "compacted/0000001f_00001038.wal.lz4"}) {
    CAPTURE(rest);
    CHECK(!names::parse_segment_key(g + rest));
  }
  CHECK(!names::parse_segment_key(
      std::string_view("generations/c5f2a4d10b3e9786/wal/0000001f_00001038.wal.lz4\0", 59)));
}

}  // namespace
}  // namespace sqlstream
