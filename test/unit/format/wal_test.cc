#include "format/wal.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "base/error.h"
#include "test/unit/format/random.h"

namespace sqlstream::wal {
namespace {

constexpr std::uint32_t kPageSizes[] = {512, 1024, 2048, 4096, 8192, 16384, 32768, 65536};

// The definition in SQLite's file format document, word by word.
Checksum plain_checksum(Checksum sum, ByteView data, bool big_endian) {
  const auto word = [&](std::size_t at) {
    const std::uint8_t* p = data.data() + at;
    if (big_endian) return load_be32(p);
    return std::uint32_t{p[3]} << 24 | std::uint32_t{p[2]} << 16 | std::uint32_t{p[1]} << 8 | p[0];
  };
  for (std::size_t at = 0; at < data.size(); at += 8) {
    sum[0] += word(at) + sum[1];
    sum[1] += word(at + 4) + sum[0];
  }
  return sum;
}

struct Page {
  std::uint32_t number;
  std::uint32_t commit_size;
  Bytes data;
  bool operator==(const Page&) const = default;
};

std::vector<Page> random_pages(test::Random& random, std::uint32_t page_size, std::uint32_t count) {
  std::vector<Page> pages;
  for (std::uint32_t i = 0; i < count; ++i) {
    pages.push_back({random.between(1, 0xffffffff), random.one_in(3) ? random.word() : 0,
                     random.bytes(page_size)});
  }
  return pages;
}

std::vector<Page> decode(Decoder& decoder, ByteView wal, test::Random& random,
                         std::uint32_t largest_piece) {
  std::vector<Page> pages;
  while (!wal.empty()) {
    ByteView piece = random.take_piece(wal, largest_piece);
    while (const auto frame = decoder.next(piece)) {
      pages.push_back({frame->page, frame->commit_size, {frame->data.begin(), frame->data.end()}});
      REQUIRE(decoder.at_frame_boundary());
    }
    REQUIRE(piece.empty());
  }
  return pages;
}

TEST_CASE("page sizes are the powers of two from 512 to 65536") {
  for (const auto size : kPageSizes) CHECK(is_valid_page_size(size));
  for (const auto size : {0u, 1u, 256u, 513u, 1000u, 4095u, 131072u, 0x80000000u}) {
    CHECK(!is_valid_page_size(size));
  }
  CHECK(lock_byte_page(512) == 2097153);
  CHECK(lock_byte_page(4096) == 262145);
  CHECK(lock_byte_page(65536) == 16385);
}

TEST_CASE("the checksum is the documented one, in both byte orders, from any alignment") {
  test::Random random("checksum");
  for (int round = 0; round < 2000; ++round) {
    const std::size_t size = random.between(0, 40) * 8;
    const Bytes data = random.bytes(size + 7);
    const ByteView view = ByteView(data).subspan(random.between(0, 7), size);
    const Checksum seed{random.word(), random.word()};
    REQUIRE(checksum(seed, view, true) == plain_checksum(seed, view, true));
    REQUIRE(checksum(seed, view, false) == plain_checksum(seed, view, false));
  }
  const Bytes page = random.bytes(65536);
  CHECK(checksum({1, 2}, page, true) == plain_checksum({1, 2}, page, true));
  CHECK(checksum({1, 2}, page, false) == plain_checksum({1, 2}, page, false));
}

TEST_CASE("a header reads back, with either byte order of checksums") {
  for (const bool big_endian : {false, true}) {
    Header header{.big_endian_checksums = big_endian,
                  .page_size = 65536,
                  .checkpoint_sequence = 0xfffffffe,
                  .salt = {0x01020304, 0xa0b0c0d0}};
    Bytes bytes(kHeaderSize);
    encode_header(header, bytes.data());
    CHECK(load_be32(bytes.data()) == (big_endian ? 0x377f0683 : 0x377f0682));
    CHECK(load_be32(bytes.data() + 4) == 3007000);
    const auto read = decode_header(bytes);
    REQUIRE(read.has_value());
    CHECK(read->big_endian_checksums == big_endian);
    CHECK(read->page_size == header.page_size);
    CHECK(read->checkpoint_sequence == header.checkpoint_sequence);
    CHECK(read->salt == header.salt);
    CHECK(read->sum == header.sum);
    CHECK(!decode_header(ByteView(bytes).first(kHeaderSize - 1)));
    for (std::size_t bit = 0; bit < kHeaderSize * 8; ++bit) {
      Bytes damaged = bytes;
      damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1u << bit % 8));
      CAPTURE(bit);
      CHECK(!decode_header(damaged));
    }
  }
}

TEST_CASE("a header with a right checksum but a wrong page size is none") {
  Header header{.page_size = 1000};
  Bytes bytes(kHeaderSize);
  encode_header(header, bytes.data());
  CHECK(!decode_header(bytes));
}

TEST_CASE("frames read back at every page size, in pieces of any size") {
  test::Random random("frames");
  for (const auto page_size : kPageSizes) {
    CAPTURE(page_size);
    const auto pages = random_pages(random, page_size, 12);
    const Salt salt{random.word(), random.word()};
    Bytes wal;
    Encoder encoder(page_size, salt, 3, wal);
    for (const auto& page : pages) encoder.append(page.number, page.commit_size, page.data, wal);
    CHECK(encoder.offset() == wal.size());
    for (const std::uint32_t largest : {7u, 1000u, 300'000u}) {
      Decoder decoder;
      CHECK(decoder.at_frame_boundary());
      CHECK(decode(decoder, wal, random, largest) == pages);
      CHECK(decoder.offset() == wal.size());
      CHECK(decoder.sum() == encoder.sum());
      REQUIRE(decoder.header().has_value());
      CHECK(decoder.header()->salt == salt);
      CHECK(decoder.header()->page_size == page_size);
    }
  }
}

TEST_CASE("writing and reading go on behind what is already there") {
  test::Random random("frames continued");
  const auto pages = random_pages(random, 1024, 8);
  Bytes at_once;
  Encoder whole(1024, {5, 6}, 0, at_once);
  for (const auto& page : pages) whole.append(page.number, page.commit_size, page.data, at_once);

  Bytes first;
  Encoder begin(1024, {5, 6}, 0, first);
  for (int i = 0; i < 3; ++i)
    begin.append(pages[i].number, pages[i].commit_size, pages[i].data, first);
  Bytes second;
  Encoder rest(begin.page_size(), begin.salt(), begin.sum(), begin.offset());
  for (int i = 3; i < 8; ++i)
    rest.append(pages[i].number, pages[i].commit_size, pages[i].data, second);
  Bytes joined = first;
  joined.insert(joined.end(), second.begin(), second.end());
  CHECK(joined == at_once);
  CHECK(rest.offset() == at_once.size());

  Decoder reader;
  CHECK(decode(reader, first, random, 500).size() == 3);
  REQUIRE(reader.header().has_value());
  Decoder further(*reader.header(), reader.sum(), reader.offset());
  CHECK(decode(further, second, random, 500) == std::vector<Page>(pages.begin() + 3, pages.end()));
  CHECK(further.offset() == at_once.size());

  Decoder wrong(*reader.header(), {1, 2}, reader.offset());
  ByteView input = second;
  CHECK_THROWS_WITH_AS(wrong.next(input),
                       "the WAL is damaged at offset 3176: a frame with a wrong checksum", Error);
}

TEST_CASE("a WAL cut anywhere but between frames is known to be") {
  test::Random random("frames cut");
  Bytes wal;
  Encoder encoder(512, {1, 2}, 0, wal);
  for (const auto& page : random_pages(random, 512, 3)) {
    encoder.append(page.number, page.commit_size, page.data, wal);
  }
  for (std::size_t size = 0; size <= wal.size(); ++size) {
    CAPTURE(size);
    Decoder decoder;
    const auto pages = decode(decoder, ByteView(wal).first(size), random, 600);
    const bool boundary = size == 0 || (size >= 32 && (size - 32) % 536 == 0);
    REQUIRE(decoder.at_frame_boundary() == boundary);
    REQUIRE(pages.size() == (size < 32 ? 0 : (size - 32) / 536));
    REQUIRE(decoder.offset() == size);
  }
}

TEST_CASE("every flipped bit is found in the frame it is in") {
  test::Random random("frames flipped");
  Bytes wal;
  Encoder encoder(512, {1, 2}, 0, wal);
  for (const auto& page : random_pages(random, 512, 2)) {
    encoder.append(page.number, page.commit_size, page.data, wal);
  }
  for (std::size_t bit = 0; bit < wal.size() * 8; ++bit) {
    Bytes damaged = wal;
    damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1u << bit % 8));
    const std::size_t byte = bit / 8;
    const std::size_t start = byte < 32 ? 0 : 32 + (byte - 32) / 536 * 536;
    CAPTURE(bit);
    Decoder decoder;
    std::size_t frames = 0;
    std::string error;
    try {
      ByteView input = damaged;
      while (decoder.next(input)) ++frames;
    } catch (const Error& e) {
      error = e.what();
    }
    REQUIRE(error.find("at offset " + std::to_string(start) + ": ") != std::string::npos);
    REQUIRE(frames == (byte < 32 + 536 ? 0 : 1));
  }
}

TEST_CASE("a frame for page 0 or under other salts is refused") {
  const Bytes page(512);
  Bytes wal;
  Encoder encoder(512, {1, 2}, 0, wal);
  const Bytes header = wal;

  Bytes other = header;
  Encoder(512, {1, 3}, encoder.sum(), 32).append(1, 1, page, other);
  ByteView input = other;
  CHECK_THROWS_WITH_AS(Decoder().next(input),
                       "the WAL is damaged at offset 32: a frame with a wrong salt", Error);

  encoder.append(1, 1, page, wal);
  store_be32(wal.data() + 32, 0);
  const Checksum sum =
      frame_checksum(decode_header(header)->sum, ByteView(wal).subspan(32, 24), page, false);
  store_be32(wal.data() + 48, sum[0]);
  store_be32(wal.data() + 52, sum[1]);
  input = wal;
  CHECK_THROWS_WITH_AS(Decoder().next(input), "the WAL is damaged at offset 32: a frame for page 0",
                       Error);
}

}  // namespace
}  // namespace sqlstream::wal
