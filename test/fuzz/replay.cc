// A snapshot and segments from a hostile replica, replayed into a file as a restore does. The input
// is a little program that makes objects which are right but for what it changes in them.

#include "restore/replay.h"

#include <cstring>

#include "base/error.h"
#include "test/fuzz/input.h"
#include "test/fuzz/wal.h"

using namespace sqlstream;

namespace {

// Content that any byte of the input decides, but of the length that it takes to get somewhere.
Bytes page_of(std::uint8_t fill, std::size_t size) {
  return Bytes(size, fill);
}

Bytes database(fuzz::Input& input, std::uint32_t page_size) {
  const std::uint8_t count = input.byte();
  Bytes image;
  for (std::size_t i = 0; i < count % 8; ++i) {
    const Bytes page = page_of(input.byte(), page_size);
    image.insert(image.end(), page.begin(), page.end());
  }
  // Some have many pages, that are written in several steps.
  if (count >= 0xf0) image.resize(std::max<std::size_t>(5000 * 512, 4 * page_size));
  if (count / 16 == 0xe) image.resize(count % 16);  // and some not even a header
  if (image.size() >= 100) {
    std::memcpy(image.data(), "SQLite format 3", 16);
    image[16] = static_cast<std::uint8_t>(page_size >> 8);
    image[17] = static_cast<std::uint8_t>(page_size == 65536 ? 1 : page_size);
  }
  return image;
}

// Frames of a virtual WAL that goes on from object to object.
struct Writer {
  std::uint32_t page_size = 512;
  std::optional<wal::Encoder> encoder;

  Bytes frames(fuzz::Input& input, Metadata& metadata) {
    Bytes data;
    const std::uint64_t begin = encoder ? encoder->offset() : 0;
    if (!encoder) encoder.emplace(page_size, kSalt, 0, data);
    append(input, *encoder, data);
    metadata.kind = Metadata::Kind::segment;
    metadata.wal_size = encoder->offset() - begin;
    metadata.wal_sum = encoder->sum();
    return data;
  }

  // What segments were folded into: a WAL of its own, behind which the segments go on.
  Bytes folded(fuzz::Input& input, Metadata& metadata) {
    Bytes data;
    wal::Encoder own(page_size, wal::Salt{3, 4}, 0, data);
    metadata.kind = Metadata::Kind::compacted;
    metadata.page_size = page_size;
    metadata.database_size = append(input, own, data);
    metadata.wal_size = input.u16();
    metadata.wal_salt = kSalt;
    metadata.wal_sum = own.sum();
    encoder.emplace(page_size, kSalt, own.sum(),
                    (encoder ? encoder->offset() : 0) + metadata.wal_size);
    return data;
  }

 private:
  static constexpr wal::Salt kSalt{1, 2};

  // The size that the last commit leaves.
  std::uint32_t append(fuzz::Input& input, wal::Encoder& to, Bytes& data) const {
    std::uint32_t last = 0;
    const std::size_t count = input.byte() % 8;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint8_t kind = input.byte();
      const std::uint32_t page = (kind & 1) != 0 ? input.u32() : 1U + input.byte() % 32U;
      const std::uint32_t size = (kind & 2) == 0 ? 0 : (kind & 4) != 0 ? input.u32() : input.byte();
      to.append(std::max(page, 1U), size, page_of(input.byte(), page_size), data);
      if (size != 0) last = size;
    }
    return last;
  }
};

Metadata::Kind other(Metadata::Kind kind) {
  return kind == Metadata::Kind::segment ? Metadata::Kind::snapshot : Metadata::Kind::segment;
}

// An object: what the input says of its metadata, and the data in an LZ4 frame, perhaps damaged.
Bytes object(fuzz::Input& input, std::optional<Metadata>& metadata, ByteView data) {
  Bytes stored;
  const std::uint8_t flags = input.byte();
  if ((flags & 1) != 0) metadata.reset();
  if (metadata && (flags & 2) != 0) metadata->page_size = input.u32();
  if (metadata && (flags & 4) != 0) metadata->database_size = input.u32();
  if (metadata && (flags & 8) != 0) metadata->wal_size = input.number(8);
  if (metadata && (flags & 16) != 0) {
    metadata->first_sequence = input.byte();
    if (metadata->first_sequence == 0) metadata->kind = other(metadata->kind);
  }
  if (metadata && (flags & 32) != 0) metadata->ends_on_commit = false;
  if (metadata) stored = encode_metadata(*metadata);
  lz4::Compressor compressor;
  compressor.write(data, stored);
  compressor.finish(stored);
  if ((flags & 64) != 0) stored.resize(input.u16() % stored.size());
  if ((flags & 128) != 0 && !stored.empty()) stored[input.u16() % stored.size()] ^= input.byte();
  return stored;
}

void replay_segment(WalReplay& replay, fuzz::Input& input, replica::Segment segment,
                    const Bytes& stored) {
  segment.size = stored.size();
  replay.begin(segment, decode_metadata(stored));
  fuzz::in_pieces(stored, input.byte() | 0x40, [&](ByteView piece) { replay.write(piece); });
  replay.end();
}

void restore(fuzz::Input& input, const std::string& output) {
  TargetFile target(output);
  DatabaseImage image(target);
  SnapshotReplay snapshot(image);
  WalReplay wal(image, target);
  Writer writer;
  writer.page_size = 512U << input.byte() % 8;

  Bytes pages = database(input, writer.page_size);
  std::optional<Metadata> metadata(std::in_place);
  metadata->kind = Metadata::Kind::snapshot;
  metadata->last_sequence = 1;
  metadata->page_size = writer.page_size;
  metadata->database_size = static_cast<std::uint32_t>(pages.size() / writer.page_size);
  const Bytes stored = object(input, metadata, pages);
  // The WAL is replayed when a part of the snapshot has been, its metadata at least.
  const std::size_t first = std::min<std::size_t>(stored.size(), 1024U + input.u16());
  snapshot.write(ByteView(stored).first(first));
  const bool at_once = snapshot.page_size_known();
  const auto end_snapshot = [&] {
    snapshot.write(ByteView(stored).subspan(first));
    snapshot.finish();
  };
  if (!at_once) end_snapshot();
  if (snapshot.metadata()) wal.follow(*snapshot.metadata());

  Position position;
  std::uint64_t sequence = 1;
  while (!input.empty()) {
    const std::uint8_t flags = input.byte();
    if ((flags & 1) != 0) {
      position = {position.index + 1, 0};
      writer.encoder.reset();
    }
    if ((flags & 2) != 0) position.offset = input.u32();
    std::optional<Metadata> of_segment(std::in_place);
    of_segment->first_sequence = of_segment->last_sequence = ++sequence;
    Bytes data;
    replica::Segment segment;
    if (flags >= 0xf0) {
      data = writer.folded(input, *of_segment);
      segment.level = 1;
    } else if ((flags & 4) != 0) {
      const ByteView raw = input.take(input.u16());
      data.assign(raw.begin(), raw.end());
      if ((flags & 8) != 0) fuzz::seal_wal(data);
      of_segment->wal_size = data.size();
    } else {
      data = writer.frames(input, *of_segment);
    }
    segment.position = position;
    position.offset += segment.level == 0 ? data.size() : of_segment->wal_size;
    segment.end = position.offset;
    replay_segment(wal, input, segment, object(input, of_segment, data));
  }

  if (at_once) end_snapshot();
  const std::uint64_t count = image.finish();
  if (image.page_size() != 0 && wal.reached()) fuzz::require(count <= UINT32_MAX);
}

}  // namespace

FUZZ(data, size) {
  const std::string folder = fuzz::folder();
  fuzz::Input input(data, size);
  try {
    restore(input, folder + "/restored.db");
  } catch (const Error& error) {
    fuzz::require(error.what()[0] != '\0');
  }
  fuzz::require(std::filesystem::is_empty(folder));
  return 0;
}
