#include "format/lz4_frame.h"

#include <cstdlib>
#include <functional>
#include <new>
#include <string>

#include <doctest/doctest.h>

#include "base/error.h"
#include "test/unit/format/files.h"
#include "test/unit/format/lz4_memory.h"
#include "test/unit/format/random.h"

namespace sqlstream::lz4 {
namespace {

constexpr std::size_t kLargestOutput = 256 * 1024;

Bytes compress(ByteView data, test::Random* random = nullptr, Effort effort = Effort::fast) {
  Compressor compressor(effort);
  Bytes out;
  while (random != nullptr && !data.empty()) {
    compressor.write(random->take_piece(data, 300'000), out);
  }
  compressor.write(data, out);
  compressor.finish(out);
  return out;
}

Bytes decompress(ByteView data, test::Random* random = nullptr, std::uint32_t largest = 70'000) {
  Decompressor decompressor;
  Bytes out;
  const auto output = [&out](ByteView piece) {
    REQUIRE(!piece.empty());
    REQUIRE(piece.size() <= kLargestOutput);
    out.insert(out.end(), piece.begin(), piece.end());
  };
  while (random != nullptr && !data.empty()) {
    decompressor.write(random->take_piece(data, largest), output);
  }
  decompressor.write(data, output);
  decompressor.finish();
  return out;
}

// Half compressible, half not, as database pages are.
Bytes sample(test::Random& random, std::size_t size) {
  Bytes data = random.bytes(size);
  for (std::size_t at = 0; at + 2048 < size; at += 4096) {
    std::fill_n(data.begin() + static_cast<std::ptrdiff_t>(at), 2048, std::uint8_t{7});
  }
  return data;
}

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

void without_memory(const std::function<void()>& work) {
  test::lz4_lacks = 64 << 10;
  CHECK_THROWS_AS(work(), std::bad_alloc);
  test::lz4_lacks = test::kLz4LacksNothing;
}

void run_lz4(const std::string& arguments) {
  const std::string command = std::string(SQLSTREAM_TEST_LZ4) + " -q -f " + arguments;
  CAPTURE(command);
  REQUIRE(std::system(command.c_str()) == 0);
}

TEST_CASE("LZ4 frames read back, in pieces of any size") {
  test::Random random("lz4 round trip");
  for (const std::size_t size :
       {0u, 1u, 511u, 65536u, 262143u, 262144u, 262145u, 1'000'000u, 9'000'000u}) {
    CAPTURE(size);
    const Bytes data = sample(random, size);
    for (const Effort effort : {Effort::fast, Effort::high}) {
      const Bytes frame = compress(data, &random, effort);
      CHECK(decompress(frame) == data);
      CHECK(decompress(frame, &random) == data);
      if (size <= 65536) CHECK(decompress(frame, &random, 3) == data);
    }
  }
}

TEST_CASE("high compression makes less of text") {
  test::Random random("lz4 text");
  std::string text;
  while (text.size() < 300'000) {
    text += "a row " + std::to_string(random.between(0, 999)) + " of many\n";
  }
  const auto fast = compress(as_bytes(text));
  const auto high = compress(as_bytes(text), nullptr, Effort::high);
  CHECK(high.size() < fast.size() * 97 / 100);
}

TEST_CASE("the frame has a content checksum and independent blocks of 256 KiB") {
  const Bytes frame = compress(as_bytes("data"));
  REQUIRE(frame.size() > 7);
  CHECK((frame[4] & 0xc0) == 0x40);  // version 1
  CHECK((frame[4] & 0x20) != 0);     // independent blocks
  CHECK((frame[4] & 0x04) != 0);     // content checksum
  CHECK((frame[5] >> 4 & 7) == 5);   // 256 KiB
}

TEST_CASE("a flipped bit is found, or changes nothing that is decoded") {
  test::Random random("lz4 flips");
  const auto check_flip = [](const Bytes& frame, std::size_t bit, const Bytes& data) {
    Bytes damaged = frame;
    damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1u << bit % 8));
    CAPTURE(bit);
    try {
      // In a run of equal bytes a match from one place is as good as from another.
      REQUIRE(decompress(damaged) == data);
      return false;
    } catch (const Error&) {
      return true;
    }
  };
  const Bytes noise = random.bytes(3000);
  Bytes frame = compress(noise);
  for (std::size_t bit = 0; bit < frame.size() * 8; ++bit) REQUIRE(check_flip(frame, bit, noise));
  const Bytes data = sample(random, 1'500'000);
  frame = compress(data);
  int found = 0;
  for (int round = 0; round < 100; ++round) {
    const auto bit = random.between(0, static_cast<std::uint32_t>(frame.size() * 8 - 1));
    found += check_flip(frame, bit, data) ? 1 : 0;
  }
  CHECK(found > 90);
}

TEST_CASE("a stream cut at any byte is found by finish()") {
  test::Random random("lz4 cuts");
  const Bytes stream = skippable_frame(as_bytes("note")) + compress(sample(random, 3000));
  for (std::size_t size = 0; size < stream.size(); ++size) {
    CAPTURE(size);
    Decompressor decompressor;
    decompressor.write(ByteView(stream).first(size), [](ByteView) {});
    CHECK_THROWS_AS(decompressor.finish(), Error);
  }
}

TEST_CASE("bytes behind the last frame are found") {
  const Bytes frame = compress(as_bytes("data"));
  for (const Bytes& tail : {Bytes{0}, Bytes{0x04, 0x22}, Bytes(100, 0), Bytes(100, 0xff)}) {
    CHECK_THROWS_AS(decompress(frame + tail), Error);
  }
}

TEST_CASE("random bytes never crash the reader") {
  test::Random random("lz4 noise");
  const Bytes frame = compress(sample(random, 20'000));
  for (int round = 0; round < 2000; ++round) {
    Bytes noise = random.bytes(random.between(1, 3000));
    if (random.one_in(2))
      std::copy_n(frame.begin(), std::min<std::size_t>(15, noise.size()), noise.begin());
    CHECK_THROWS_AS(decompress(noise, &random, 500), Error);
  }
}

TEST_CASE("skippable frames are skipped and data frames follow one another") {
  test::Random random("lz4 frames");
  const Bytes a = sample(random, 100'000);
  const Bytes b = sample(random, 50'000);
  const Bytes note = skippable_frame(random.bytes(500));
  const Bytes empty_note = skippable_frame({});
  CHECK(decompress(note + compress(a)) == a);
  CHECK(decompress(empty_note + compress(a)) == a);
  CHECK(decompress(compress(a) + note + empty_note + compress({}) + compress(b) + note, &random,
                   100) == a + b);
  CHECK(decompress(compress(a) + empty_note, &random, 1) == a);
  Bytes other_magic = note;
  other_magic[0] = 0x5f;
  CHECK(decompress(other_magic + compress(a)) == a);
  // Notes alone are no data.
  CHECK_THROWS_AS(decompress(note), Error);
  CHECK_THROWS_AS(decompress({}), Error);
}

TEST_CASE("a skippable frame's payload is read when it is whole and small") {
  const Bytes payload{1, 2, 3};
  const Bytes frame = skippable_frame(payload);
  CHECK(frame == Bytes{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3});
  const Bytes longer = frame + Bytes{9, 9};
  const auto read = parse_skippable_frame(longer);
  REQUIRE(read.has_value());
  CHECK(Bytes(read->begin(), read->end()) == payload);
  for (std::size_t n = 0; n < frame.size(); ++n) {
    CHECK(!parse_skippable_frame(ByteView(frame).first(n)));
  }
  CHECK(!parse_skippable_frame(compress(payload)));
  CHECK(parse_skippable_frame(skippable_frame(Bytes(65536))).has_value());
  CHECK(!parse_skippable_frame(skippable_frame(Bytes(65537))));
  const Bytes huge{0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff, 0};
  CHECK(!parse_skippable_frame(huge));
}

TEST_CASE("the lz4 program reads what we write") {
  test::Random random("lz4 program reads");
  const test::TempFolder folder;
  for (const std::size_t size : {0u, 100u, 1'000'000u}) {
    const Bytes data = sample(random, size);
    test::write_file(folder.file("ours.lz4"),
                     skippable_frame(as_bytes("{}")) + compress(data, &random));
    run_lz4("-d " + folder.file("ours.lz4") + ' ' + folder.file("theirs"));
    CHECK(test::read_file(folder.file("theirs")) == data);
  }
}

TEST_CASE("we read what the lz4 program writes: any block size, linked or not, with any checksum") {
  test::Random random("lz4 program writes");
  const test::TempFolder folder;
  const Bytes data = sample(random, 9'000'000);
  test::write_file(folder.file("data"), data);
  for (const char* options : {"", "-B4", "-B5 -BD", "-B7", "-B7 -BD", "-B7 -BX --content-size",
                              "-9 -B6", "--no-frame-crc -B7 -BD"}) {
    CAPTURE(options);
    run_lz4(std::string(options) + ' ' + folder.file("data") + ' ' + folder.file("data.lz4"));
    const Bytes frame = test::read_file(folder.file("data.lz4"));
    CHECK(decompress(frame) == data);
    CHECK(decompress(frame, &random) == data);
  }
}

TEST_CASE("want of memory is told as such") {
  test::Random random("want of memory");
  const Bytes data = sample(random, 100'000);
  const Bytes compressed = compress(data);
  const Compressor other;  // so that the next one finds nothing of one before it
  without_memory([&] { compress(data); });
  without_memory([&] { decompress(compressed); });
  CHECK(decompress(compress(data)) == data);
}

TEST_CASE("who compresses behind one that lacked memory has what it needs") {
  test::Random random("behind want of memory");
  const Bytes data = sample(random, 1000);
  const Compressor other;  // so that the next one finds nothing of one before it
  compress(data);
  without_memory([&] { compress(data, nullptr, Effort::high); });
  CHECK(decompress(compress(data)) == data);
}

TEST_CASE("blocks that are larger than asked for are refused, in every frame") {
  test::Random random("lz4 block sizes");
  const test::TempFolder folder;
  const Bytes data = sample(random, 5'000'000);
  test::write_file(folder.file("data"), data);
  const Bytes ours = compress(as_bytes("x"));
  for (const std::size_t size : {4, 5, 6, 7}) {
    run_lz4("-B" + std::to_string(size) + ' ' + folder.file("data") + ' ' +
            folder.file("data.lz4"));
    const Bytes frame = test::read_file(folder.file("data.lz4"));
    for (const std::size_t piece : {std::size_t{1}, frame.size()}) {
      for (const Bytes& stream : {frame, ours + frame, skippable_frame({}) + frame}) {
        CAPTURE(size);
        Decompressor decompressor(256 << 10);
        std::size_t decoded = 0;
        const auto decode = [&] {
          for (ByteView rest = stream; !rest.empty();
               rest = rest.subspan(std::min(piece, rest.size()))) {
            decompressor.write(rest.first(std::min(piece, rest.size())),
                               [&](ByteView output) { decoded += output.size(); });
          }
        };
        if (size <= 5) {
          CHECK_NOTHROW(decode());
          CHECK(decoded >= data.size());
        } else {
          CHECK_THROWS_WITH_AS(decode(), doctest::Contains("not of 262144 at most"), Error);
          CHECK(decoded <= 1);
        }
      }
    }
  }
}

}  // namespace
}  // namespace sqlstream::lz4
