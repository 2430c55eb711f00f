#include "format/metadata.h"

#include <string>

#include <doctest/doctest.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "format/hex.h"
#include "format/lz4_frame.h"
#include "test/unit/format/random.h"

namespace sqlstream {
namespace {

Metadata example() {
  Metadata m;
  m.kind = Metadata::Kind::segment;
  m.first_commit = Time{std::chrono::nanoseconds{1795231766123456789}};
  m.last_commit = m.first_commit + std::chrono::milliseconds{17};
  m.commits = 0xffffffffffffffff;
  m.pages = 0xffffffff;
  m.page_size = 65536;
  m.database_size = 0xfffffffe;
  m.ends_on_commit = false;
  m.first_sequence = 41;
  m.last_sequence = 0x8000000000000000;
  m.chain = 0xfedcba9876543210;
  m.batch_frame = 0xffffffff;
  m.source_salt = {0xffffffff, 7};
  m.source_frame = 12;
  m.wal_size = 0xffffffff;
  m.wal_salt = {1, 0x80000000};
  m.wal_sum = {3, 4};
  m.host = "db-1";
  m.database = "/srv/\"quoted\"/ä.db";
  return m;
}

bool same(const Metadata& a, const Metadata& b) {
  return a.kind == b.kind && a.first_commit == b.first_commit && a.last_commit == b.last_commit &&
         a.commits == b.commits && a.pages == b.pages && a.page_size == b.page_size &&
         a.database_size == b.database_size && a.ends_on_commit == b.ends_on_commit &&
         a.first_sequence == b.first_sequence && a.last_sequence == b.last_sequence &&
         a.chain == b.chain && a.batch_frame == b.batch_frame && a.source_salt == b.source_salt &&
         a.source_frame == b.source_frame && a.wal_size == b.wal_size && a.wal_salt == b.wal_salt &&
         a.wal_sum == b.wal_sum && a.after == b.after && a.host == b.host &&
         a.database == b.database;
}

// A frame around `body`, a JSON object without its closing brace, as a writer ends it.
Bytes frame_of(const std::string& body) {
  const std::string sum = to_hex(XXH3_64bits(body.data(), body.size()), 16);
  return lz4::skippable_frame(as_bytes(body + ",\"sum\":\"" + sum + "\"}"));
}

TEST_CASE("metadata reads back, also with the object's data behind it") {
  Metadata m = example();
  Bytes frame = encode_metadata(m);
  CHECK(frame[0] == 0x50);
  CHECK(frame[1] == 0x2a);
  CHECK(frame[2] == 0x4d);
  CHECK(frame[3] == 0x18);
  auto read = decode_metadata(frame);
  REQUIRE(read.has_value());
  CHECK(same(*read, m));
  frame.resize(1024, 0xee);
  read = decode_metadata(frame);
  REQUIRE(read.has_value());
  CHECK(same(*read, m));

  Metadata snapshot;
  snapshot.kind = Metadata::Kind::snapshot;
  snapshot.first_commit = snapshot.last_commit = Time{std::chrono::nanoseconds{-1}};
  snapshot.pages = snapshot.database_size = 9;
  snapshot.after = GenerationEnd{{0xabc}, 0xffffffffffffffff};
  read = decode_metadata(encode_metadata(snapshot));
  REQUIRE(read.has_value());
  CHECK(same(*read, snapshot));
  CHECK(same(*decode_metadata(encode_metadata(Metadata{})), Metadata{}));
}

TEST_CASE("the form on disk stays as it is") {
  Metadata m;
  m.first_commit = m.last_commit = Time{std::chrono::nanoseconds{5}};
  m.commits = 1;
  m.pages = 2;
  m.page_size = 4096;
  m.database_size = 3;
  m.first_sequence = m.last_sequence = 6;
  m.chain = 14;
  m.batch_frame = 15;
  m.source_salt = {7, 8};
  m.source_frame = 9;
  m.wal_size = 8240;
  m.wal_salt = {10, 11};
  m.wal_sum = {12, 13};
  m.host = "h";
  m.database = "/srv/app.db";
  CHECK(
      as_text(encode_metadata(m)) ==
      as_text(frame_of("{\"sqlstream\":1,\"kind\":\"segment\",\"first\":5,\"last\":5,\"commits\":1,"
                       "\"pages\":2,\"page_size\":4096,\"db_size\":3,\"first_seq\":6,\"last_seq\":"
                       "6,\"chain\":14,\"batch_frame\":15,"
                       "\"src_salt\":[7,8],\"src_frame\":9,\"wal_size\":8240,\"wal_salt\":[10,11],"
                       "\"wal_sum\":[12,13],\"host\":\"h\",\"db\":\"/srv/app.db\"")));
  Metadata snapshot;
  snapshot.kind = Metadata::Kind::snapshot;
  snapshot.after = GenerationEnd{{0xabc}, 7};
  CHECK(
      as_text(encode_metadata(snapshot)).find(",\"after\":\"0000000000000abc\",\"after_seq\":7,") !=
      std::string_view::npos);
}

TEST_CASE("absent keys keep their default and unknown ones are ignored") {
  const auto read = decode_metadata(
      frame_of("{\"sqlstream\":1,\"kind\":\"snapshot\",\"colour\":[1,{\"a\":null}],\"pages\":3"));
  REQUIRE(read.has_value());
  Metadata expected;
  expected.kind = Metadata::Kind::snapshot;
  expected.pages = 3;
  CHECK(same(*read, expected));
}

TEST_CASE("an object of others has no metadata") {
  CHECK(!decode_metadata({}));
  CHECK(!decode_metadata(as_bytes("\x04\x22\x4d\x18 some LZ4 frame")));
  CHECK(!decode_metadata(as_bytes("SQLite format 3")));
  CHECK(!decode_metadata(lz4::skippable_frame({})));
  CHECK(!decode_metadata(lz4::skippable_frame(as_bytes("{\"other\":1}"))));
}

TEST_CASE("a frame that is not whole is none") {
  const Bytes frame = encode_metadata(example());
  for (std::size_t n = 0; n < frame.size(); ++n) {
    CHECK(!decode_metadata(ByteView(frame).first(n)));
  }
}

TEST_CASE("no flipped bit in the payload goes unseen") {
  const Bytes frame = encode_metadata(example());
  for (std::size_t bit = 64; bit < frame.size() * 8; ++bit) {
    Bytes damaged = frame;
    damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1u << bit % 8));
    CAPTURE(bit);
    CHECK_THROWS_AS(decode_metadata(damaged), DamagedMetadata);
  }
}

TEST_CASE("no damage of any kind reads as other values") {
  test::Random random("metadata damage");
  const Metadata m = example();
  const Bytes frame = encode_metadata(m);
  for (int round = 0; round < 5000; ++round) {
    Bytes damaged = frame;
    const auto at = random.between(0, static_cast<std::uint32_t>(frame.size() - 1));
    const auto size = std::min<std::size_t>(random.between(1, 40), frame.size() - at);
    const Bytes noise = random.bytes(size);
    std::copy(noise.begin(), noise.end(), damaged.begin() + at);
    if (damaged == frame) continue;
    try {
      const auto read = decode_metadata(damaged);
      CHECK(!read.has_value());
    } catch (const Error&) {
    }
  }
}

TEST_CASE("ours, whole, but not what it should be: an error") {
  for (const char* body :
       {"{\"sqlstream\":1", "{\"sqlstream\":0,\"kind\":\"segment\"",
        "{\"sqlstream\":\"1\",\"kind\":\"segment\"", "{\"sqlstream\":1,\"kind\":\"other\"",
        "{\"sqlstream\":1,\"kind\":1", "{\"sqlstream\":1,\"kind\":\"segment\",\"pages\":-1",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"pages\":4294967296",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"pages\":1.5",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"pages\":\"1\"",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"first\":9223372036854775808",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"wal_sum\":[1]",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"wal_sum\":[1,2,3]",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"wal_sum\":[1,-2]",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"wal_sum\":7",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"ends_on_commit\":1",
        "{\"sqlstream\":1,\"kind\":\"segment\",\"host\":1",
        "{\"sqlstream\":1,\"kind\":\"snapshot\",\"after\":7",
        "{\"sqlstream\":1,\"kind\":\"snapshot\",\"after\":\"abc\"",
        "{\"sqlstream\":1,\"kind\":}"}) {
    CAPTURE(body);
    CHECK_THROWS_AS(decode_metadata(frame_of(body)), Error);
  }
}

TEST_CASE("a newer format version says so") {
  CHECK_THROWS_WITH_AS(decode_metadata(frame_of("{\"sqlstream\":2,\"kind\":\"new\"")),
                       "the object was written in format version 2, newer than this sqlstream "
                       "reads: use a newer sqlstream",
                       Error);
  // It is not damaged, and nothing that is done about damage helps.
  bool damaged = false;
  try {
    decode_metadata(frame_of("{\"sqlstream\":2"));
  } catch (const DamagedMetadata&) {
    damaged = true;
  } catch (const Error&) {
  }
  CHECK_FALSE(damaged);
}

TEST_CASE("the whole frame fits in one KiB, whatever the names") {
  Metadata m = example();
  m.database = "/" + std::string(4000, 'x');
  auto read = decode_metadata(encode_metadata(m));
  REQUIRE(read.has_value());
  CHECK(encode_metadata(m).size() <= 1024);
  CHECK(read->database.empty());
  CHECK(read->host == m.host);
  m.host = std::string(2000, '\x01');
  CHECK(encode_metadata(m).size() <= 1024);
  read = decode_metadata(encode_metadata(m));
  REQUIRE(read.has_value());
  CHECK(read->host.empty());
  CHECK(read->wal_sum == m.wal_sum);
  m = example();
  m.database = "/not utf-8 \xff\xfe";
  read = decode_metadata(encode_metadata(m));
  REQUIRE(read.has_value());
  CHECK(read->database.starts_with("/not utf-8 "));
}

}  // namespace
}  // namespace sqlstream
