#include "format/segment_merge.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

// Folding what others wrote; that it restores the same is shown beside the restore.

namespace sqlstream {
namespace {

constexpr std::uint32_t kPageSize = 512;
constexpr wal::Salt kSalt{1, 2};

/// Objects of one WAL, as who ships writes them, or whoever else can.
class Objects {
 public:
  /// The last of `pages` commits a database of `size` pages. It is `more` bytes longer than told.
  void add(const std::vector<std::uint32_t>& pages, std::uint32_t size, std::int64_t more = 0) {
    Bytes data;
    const std::uint64_t begin = encoder_ ? encoder_->offset() : 0;
    if (!encoder_) encoder_.emplace(kPageSize, kSalt, 0, data);
    for (const auto& page : pages) {
      const Bytes image(kPageSize, static_cast<std::uint8_t>(page));
      encoder_->append(page, &page == &pages.back() ? size : 0, image, data);
    }
    Metadata metadata;
    metadata.page_size = kPageSize;
    metadata.database_size = size;
    metadata.wal_salt = kSalt;
    const std::uint64_t end = encoder_->offset() - static_cast<std::uint64_t>(more);
    metadata.wal_size = end - begin;
    metadata.wal_sum = encoder_->sum();
    metadata.first_sequence = metadata.last_sequence = spans_.size() + 1;
    Bytes stored = encode_metadata(metadata);
    lz4::Compressor compressor;
    compressor.write(data, stored);
    compressor.finish(stored);
    spans_.push_back({begin, end});
    stored_.push_back(std::move(stored));
  }

  void exchange(std::size_t a, std::size_t b) { std::swap(stored_[a], stored_[b]); }
  /// Changes bytes of the data, or the metadata; all that is in front of it is right.
  template <class Change>
  void change(std::size_t object, Change change) {
    Bytes& stored = stored_[object];
    Metadata metadata = *decode_metadata(stored);
    Bytes data;
    lz4::Decompressor decompressor;
    decompressor.write(
        stored, [&](ByteView piece) { data.insert(data.end(), piece.begin(), piece.end()); });
    change(metadata, data);
    stored = encode_metadata(metadata);
    lz4::Compressor compressor;
    compressor.write(data, stored);
    compressor.finish(stored);
  }
  /// From then on, it is as if there were only these.
  void only_from(std::size_t first) {
    stored_.erase(stored_.begin(), stored_.begin() + static_cast<std::ptrdiff_t>(first));
    spans_.erase(spans_.begin(), spans_.begin() + static_cast<std::ptrdiff_t>(first));
  }

  /// Given in pieces of `piece` bytes; each output is appended to `before`.
  Bytes fold(std::size_t piece = 2048, const Bytes& before = {}) const {
    SegmentMerge merge(0, spans_);
    try {
      return fold(merge, piece, before);
    } catch (const Error&) {
      damaged_ = merge.reading();
      throw;
    }
  }
  /// Of the last fold() that failed.
  std::size_t damaged() const { return damaged_; }

 private:
  Bytes fold(SegmentMerge& merge, std::size_t piece, const Bytes& before) const {
    std::vector<std::size_t> taken(spans_.size());
    Bytes object;
    while (!merge.done()) {
      Bytes out = before;
      const auto lacking = merge.run(out);
      CHECK(out.size() < (600 << 10));
      REQUIRE(out.size() >= before.size());
      const auto end = out.begin() + static_cast<std::ptrdiff_t>(before.size());
      REQUIRE(std::equal(out.begin(), end, before.begin()));
      object.insert(object.end(), end, out.end());
      if (!lacking) continue;
      const Bytes& stored = stored_[*lacking];
      std::size_t& at = taken[*lacking];
      const std::size_t size = std::min(at == 0 ? 2048 : piece, stored.size() - at);
      const auto from = stored.begin() + static_cast<std::ptrdiff_t>(at);
      at += size;
      merge.give(*lacking, Bytes(from, from + static_cast<std::ptrdiff_t>(size)),
                 at == stored.size());
    }
    return object;
  }

  std::optional<wal::Encoder> encoder_;
  std::vector<SegmentMerge::Span> spans_;
  std::vector<Bytes> stored_;
  mutable std::size_t damaged_ = SIZE_MAX;
};

struct Frame {
  std::uint32_t page;
  std::uint32_t commit_size;
  std::uint8_t fill;
};

std::vector<Frame> frames_of(const Bytes& object) {
  std::vector<Frame> frames;
  lz4::Decompressor decompressor;
  wal::Decoder decoder;
  Bytes room(256 << 10);
  decompressor.write(object, room, [&](ByteView data) {
    while (const auto frame = decoder.next(data)) {
      frames.push_back({frame->page, frame->commit_size, frame->data.front()});
    }
  });
  decompressor.finish();
  REQUIRE(decoder.at_frame_boundary());
  return frames;
}

}  // namespace

TEST_CASE("pages that a database grew by and nobody wrote are zeros, however many") {
  Objects objects;
  objects.add({1, 2}, 2);
  objects.add({1}, 1);
  objects.add({1, 7000}, 20000);
  const auto frames = frames_of(objects.fold());
  REQUIRE(frames.size() == 20000);
  for (std::uint32_t i = 0; i < frames.size(); ++i) {
    const std::uint32_t page = i + 1;
    const bool written = page == 1 || page == 7000;
    const bool right = frames[i].page == page &&
                       frames[i].fill == static_cast<std::uint8_t>(written ? page : 0) &&
                       frames[i].commit_size == (page == 20000 ? 20000 : 0);
    if (!right) MESSAGE("page " << page);
    REQUIRE(right);
  }
}

TEST_CASE("what is folded comes behind what is there") {
  Objects objects;
  objects.add({1, 2}, 2);
  objects.add({2}, 2);
  CHECK(objects.fold(2048, Bytes(100, 7)) == objects.fold());
}

TEST_CASE("a size that nothing is there for is not believed") {
  Objects objects;
  objects.add({1}, 1);
  objects.add({1}, UINT32_MAX);
  CHECK_THROWS_AS(objects.fold(), SegmentMerge::Unsuitable);
}

TEST_CASE("what is longer or shorter than its name says is refused") {
  for (const std::int64_t more : {-536, 0, 536}) {
    Objects objects;
    objects.add({1, 2}, 2);
    objects.add({1, 2, 3}, 3, more);
    if (more == 0) {
      CHECK(frames_of(objects.fold()).size() == 3);
    } else {
      CHECK_THROWS_WITH_AS(objects.fold(), doctest::Contains("than its name says"), Error);
    }
  }
}

TEST_CASE("frames that do not ascend are refused, wherever the pieces of an object end") {
  std::vector<std::uint32_t> pages(900);
  for (std::uint32_t i = 0; i < pages.size(); ++i) pages[i] = i + 1;
  Objects right;
  right.add(pages, 900);
  CHECK(frames_of(right.fold()).size() == 900);
  for (const std::size_t at : {1, 255, 256, 511, 512, 898}) {
    auto wrong = pages;
    std::swap(wrong[at - 1], wrong[at]);
    for (const std::size_t piece : {1, 100, 4096}) {
      Objects objects;
      objects.add(wrong, 900);
      CHECK_THROWS_AS(objects.fold(piece), SegmentMerge::Unsuitable);
    }
  }
}

TEST_CASE("what is not of one chain is refused, and which it is") {
  Objects objects;
  for (std::uint32_t n = 0; n < 5; ++n) objects.add({1, 2 + n}, 10);
  const auto fails = [&](const char* why, std::size_t damaged) {
    CHECK_THROWS_WITH_AS(objects.fold(), doctest::Contains(why), Error);
    CHECK(objects.damaged() == damaged);
  };
  const auto change = [&](std::size_t object, std::size_t at) {
    objects.change(object, [at](Metadata&, Bytes& data) { data[at] ^= 1; });
  };
  SUBCASE("the same one, wherever it begins") {
    CHECK(frames_of(objects.fold()).size() == 6);
    objects.only_from(2);
    CHECK(frames_of(objects.fold()).size() == 4);
  }
  SUBCASE("exchanged") {
    objects.exchange(1, 3);
    fails("does not go on", 1);
  }
  SUBCASE("exchanged with their numbers") {
    objects.exchange(1, 3);
    objects.change(1, [](Metadata& m, Bytes&) { m.first_sequence = m.last_sequence = 2; });
    objects.change(3, [](Metadata& m, Bytes&) { m.first_sequence = m.last_sequence = 4; });
    fails("a wrong checksum", 1);
  }
  SUBCASE("the first exchanged, which nothing is before") {
    objects.only_from(1);
    objects.exchange(0, 3);
    fails("does not go on", 1);
  }
  SUBCASE("a page") {
    change(2, wal::kFrameHeaderSize + 7);
    fails("a wrong checksum", 2);
  }
  SUBCASE("the last page") {
    change(4, wal::kFrameHeaderSize + kPageSize + wal::kFrameHeaderSize + 7);
    fails("a wrong checksum", 4);
  }
  SUBCASE("a salt") {
    change(2, 9);
    fails("a wrong salt", 2);
  }
  SUBCASE("the header") {
    change(0, 3);
    fails("the header of its WAL", 0);
  }
  SUBCASE("the end") {
    objects.change(4, [](Metadata& m, Bytes&) { m.wal_sum[0] ^= 1; });
    fails("not the ones it was made of", 4);
  }
}

}  // namespace sqlstream
