// Objects of a hostile replica, folded as compaction does inside the application. The input is a
// little program that makes objects which are right but for what it changes in them.

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "format/segment_merge.h"
#include "test/fuzz/input.h"

using namespace sqlstream;

namespace {

constexpr wal::Salt kSalt{1, 2};
constexpr std::size_t kMostAtOnce = 1 << 20;

struct Object {
  SegmentMerge::Span span;
  Bytes stored;
  std::size_t metadata_size = 0;
};

// Every other one is of bytes that do not compress, so that there are many pieces.
Bytes page_of(std::uint8_t fill, std::size_t size) {
  Bytes page(size, fill);
  if (fill % 2 == 0) return page;
  std::uint32_t state = fill;
  for (std::uint8_t& byte : page) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::uint8_t>(state >> 24);
  }
  return page;
}

// Small, as the pages that are missing up to it are made: a large one is the exception.
std::uint32_t size_of(fuzz::Input& input) {
  const std::uint8_t size = input.byte();
  return size < 0xfe ? size : size == 0xfe ? input.u16() : input.u32();
}

/// Objects of a virtual WAL that goes on from one to the next.
class Writer {
 public:
  Writer(std::uint32_t page_size, std::uint64_t begin) : page_size_(page_size), offset_(begin) {}

  Object next(fuzz::Input& input) {
    Metadata metadata;
    metadata.page_size = page_size_;
    metadata.wal_salt = kSalt;
    const std::uint8_t kind = input.byte();
    if ((kind & 1) != 0) metadata.kind = Metadata::Kind::compacted;
    const SegmentMerge::Span from{offset_, offset_};
    Bytes data;
    if ((kind & 2) != 0) {
      const ByteView raw = input.take(input.u16());
      data.assign(raw.begin(), raw.end());
      metadata.database_size = size_of(input);
    } else {
      frames(input, (kind & 4) != 0, metadata, data);
    }
    metadata.wal_sum = sum_;
    metadata.wal_size = (kind & 1) == 0 ? data.size() : input.u16();
    offset_ += metadata.wal_size;
    if ((kind & 8) != 0) offset_ = input.u32();
    // Less than is told, or far more.
    if (kind >> 4 == 0xe) data.resize(data.size() / 2);
    if (kind >> 4 == 0xf) data.resize(data.size() + (2 << 20));
    Object object = store(input, std::move(metadata), data);
    object.span = {from.begin, offset_};
    if ((kind & 16) != 0) offset_ = input.u32();
    return object;
  }

 private:
  // The last one is a commit, unless the transaction `goes_on` in the next object.
  void frames(fuzz::Input& input, bool goes_on, Metadata& metadata, Bytes& data) {
    const bool header = metadata.kind == Metadata::Kind::compacted || offset_ == 0;
    std::optional<wal::Encoder> encoder;
    if (header) {
      encoder.emplace(page_size_, kSalt, 0, data);
    } else {
      encoder.emplace(page_size_, kSalt, sum_, offset_);
    }
    metadata.database_size = size_of(input);
    metadata.ends_on_commit = !goes_on;
    metadata.batch_frame = inside_;
    metadata.commits = 1;
    std::uint32_t page = inside_ != 0 ? last_page_ : 0;
    const std::size_t count = input.byte() % 8;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint8_t step = input.byte();
      page = step == 0xff ? input.u32() : page + 1 + step % 8;
      const bool last = i + 1 == count;
      encoder->append(std::max(page, 1U), last && !goes_on ? metadata.database_size : 0,
                      page_of(input.byte(), page_size_), data);
    }
    last_page_ = page;
    sum_ = encoder->sum();
    inside_ = goes_on ? inside_ + static_cast<std::uint32_t>(count) : 0;
  }

  // What the input changes in the metadata, and the data in an LZ4 frame, perhaps damaged.
  static Object store(fuzz::Input& input, Metadata metadata, ByteView data) {
    Object object;
    const std::uint8_t flags = input.byte();
    const std::uint8_t more = (flags & 1) != 0 ? input.byte() : 0;
    if ((more & 1) != 0) metadata.kind = Metadata::Kind::snapshot;
    if ((more & 2) != 0) metadata.page_size = input.u32();
    if ((more & 4) != 0) metadata.wal_size = input.number(8);
    if ((more & 8) != 0) metadata.wal_salt[0] = input.u32();
    if ((more & 16) != 0) metadata.batch_frame = input.byte();
    if ((more & 64) != 0) metadata.wal_sum[0] = input.u32();
    if ((more & 128) != 0) metadata.first_sequence = metadata.last_sequence = input.byte();
    if ((more & 32) != 0) metadata.ends_on_commit = !metadata.ends_on_commit;
    if ((flags & 2) != 0) metadata.database_size = size_of(input);
    if ((flags & 4) == 0) object.stored = encode_metadata(metadata);
    object.metadata_size = object.stored.size();
    if ((flags & 8) != 0) {
      const ByteView raw = input.take(input.u16());
      object.stored.insert(object.stored.end(), raw.begin(), raw.end());
    } else {
      lz4::Compressor compressor;
      compressor.write(data, object.stored);
      compressor.finish(object.stored);
    }
    if ((flags & 16) != 0) object.stored.resize(input.u16() % (object.stored.size() + 1));
    if ((flags & 32) != 0 && !object.stored.empty()) {
      object.stored[input.u16() % object.stored.size()] ^= input.byte();
    }
    return object;
  }

  const std::uint32_t page_size_;
  std::uint64_t offset_;
  wal::Checksum sum_{};
  std::uint32_t inside_ = 0;  // frames of the transaction that goes on
  std::uint32_t last_page_ = 0;
};

// Calls `each` with the page and the image of each frame behind the header, if there is one.
template <class Each>
void each_frame(ByteView data, std::uint32_t page_size, bool header, Each each) {
  if (header) data = data.subspan(wal::kHeaderSize);
  for (const std::size_t size = wal::kFrameHeaderSize + page_size; !data.empty();
       data = data.subspan(size)) {
    each(wal::decode_frame_header(data).page, data.subspan(wal::kFrameHeaderSize, page_size));
  }
}

Bytes decoded(const Bytes& stored) {
  Bytes data;
  lz4::Decompressor decompressor;
  decompressor.write(stored,
                     [&](ByteView piece) { data.insert(data.end(), piece.begin(), piece.end()); });
  decompressor.finish();
  return data;
}

/// What must be left of the inputs, one after another, told in the simplest way.
struct Expected {
  std::map<std::uint32_t, Bytes> images;
  std::uint32_t smallest = UINT32_MAX;  // pages beyond it that have no image are zeros
  std::uint32_t size = 0;

  explicit Expected(const std::vector<Object>& inputs) {
    for (const Object& input : inputs) {
      const Metadata metadata = *decode_metadata(input.stored);
      size = metadata.database_size;
      smallest = std::min(smallest, size);
      images.erase(images.upper_bound(size), images.end());
      const bool header = metadata.kind == Metadata::Kind::compacted || input.span.begin == 0;
      each_frame(decoded(input.stored), metadata.page_size, header,
                 [&](std::uint32_t page, ByteView image) {
                   if (page <= size) images[page].assign(image.begin(), image.end());
                 });
    }
  }

  std::uint64_t count(std::uint32_t page_size) const {
    const std::uint32_t lock_byte_page = wal::lock_byte_page(page_size);
    std::uint64_t count = std::uint64_t{size} - smallest;
    if (lock_byte_page > smallest && lock_byte_page <= size) --count;
    for (const auto& [page, image] : images) {
      if (page <= smallest || page == lock_byte_page) ++count;
    }
    return count;
  }
};

// The object is a WAL of its own with one commit, and holds what the inputs leave.
void check(const Bytes& object, const Metadata& metadata, const Expected& expected) {
  const auto written = decode_metadata(object);
  fuzz::require(written && encode_metadata(*written) == encode_metadata(metadata));
  fuzz::require(written->kind == Metadata::Kind::compacted && written->ends_on_commit);
  wal::Decoder wal;
  lz4::Decompressor decompressor;
  std::uint32_t last = 0;
  std::uint32_t committed = 0;
  std::uint64_t count = 0;
  decompressor.write(object, [&](ByteView data) {
    while (const auto frame = wal.next(data)) {
      fuzz::require(frame->page > last && committed == 0);
      last = frame->page;
      committed = frame->commit_size;
      ++count;
      const auto image = expected.images.find(frame->page);
      if (image != expected.images.end()) {
        fuzz::require(std::ranges::equal(image->second, frame->data));
      } else {
        fuzz::require(frame->page > expected.smallest && frame->page <= expected.size);
        fuzz::require(std::ranges::all_of(frame->data, [](auto byte) { return byte == 0; }));
      }
    }
  });
  decompressor.finish();
  fuzz::require(wal.at_frame_boundary() && wal.header()->page_size == written->page_size);
  fuzz::require(committed != 0 && committed == written->database_size);
  fuzz::require(committed == expected.size && count == expected.count(written->page_size));
}

void fold(fuzz::Input& input) {
  const std::uint8_t shape = input.byte();
  const std::uint8_t pieces = input.byte();
  // One index in four is not folded from its beginning.
  Writer writer(512U << shape % 8, shape / 64 == 3 ? wal::kHeaderSize : 0);
  std::vector<Object> inputs(1 + shape / 8 % 5);
  std::vector<SegmentMerge::Span> spans;
  for (Object& object : inputs) {
    object = writer.next(input);
    spans.push_back(object.span);
  }

  SegmentMerge merge(shape / 64, spans);
  std::vector<std::size_t> taken(inputs.size());
  std::size_t step = pieces;
  Bytes object;
  while (!merge.done()) {
    Bytes out;
    const auto lacking = merge.run(out);
    fuzz::require(out.size() < kMostAtOnce);
    fuzz::require(lacking || !out.empty());
    object.insert(object.end(), out.begin(), out.end());
    if (!lacking) continue;
    const Object& from = inputs[*lacking];
    std::size_t& at = taken[*lacking];
    const std::size_t first = at == 0 ? from.metadata_size : 0;
    const std::size_t size = std::min(from.stored.size() - at, first + step % 8000);
    step = step * 7 + 3;
    const ByteView piece = ByteView(from.stored).subspan(at, size);
    at += size;
    merge.give(*lacking, Bytes(piece.begin(), piece.end()), at == from.stored.size());
  }
  check(object, merge.metadata(), Expected(inputs));
}

}  // namespace

FUZZ(data, size) {
  fuzz::Input input(data, size);
  try {
    fold(input);
  } catch (const Error& error) {
    fuzz::require(error.what()[0] != '\0');
  }
  return 0;
}
