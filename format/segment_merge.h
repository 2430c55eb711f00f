#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "format/lz4_frame.h"
#include "format/metadata.h"
#include "format/position.h"
#include "format/wal.h"

namespace sqlstream {

/// Folds consecutive objects of one index into one: compaction. Each input holds frames ascending
/// by page, as sqlstream writes them, so they are merged as streams: memory does not depend on how
/// large they are. The result replays to the same database as the inputs one after another. It has
/// checksums of its own, so those of the inputs are verified as a restore does.
///
/// Sans-io: give() what run() asks for. Not thread-safe; may move between threads.
class SegmentMerge {
 public:
  /// These cannot be folded, and never will be: not ours, not adjacent, cut inside a transaction,
  /// or nearly all of what they grow to is missing.
  class Unsuitable : public Error {
   public:
    using Error::Error;
  };

  /// Where an input begins and ends in the index, uncompressed, as its name says.
  struct Span {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };
  SegmentMerge(std::uint32_t index, const std::vector<Span>& inputs);

  /// The next stored bytes of an input. The first ones must hold its metadata: 2 KiB, or all.
  void give(std::size_t input, Bytes stored, bool last);

  /// Appends to `out`, which is the object, until it lacks bytes of an input: the one it names.
  /// Empty: it ended because `out` has over 256 KiB, or because it is done(). Throws Error on
  /// damage (Unsuitable where the inputs are whole).
  std::optional<std::size_t> run(Bytes& out);
  bool done() const { return done_; }
  /// The input that was read last: after an Error for damage, the damaged one.
  std::size_t reading() const { return reading_; }

  /// Of the object; after the first bytes of it.
  const Metadata& metadata() const { return metadata_; }

 private:
  // What sqlstream writes. Many inputs are open at a time, inside the application.
  static constexpr std::size_t kLargestBlock = 256 << 10;
  struct Input {
    Span span;
    std::optional<Metadata> metadata;
    Bytes stored;  // not decoded yet, from taken on
    std::size_t taken = 0;
    bool last_given = false;
    lz4::Decompressor decompressor{kLargestBlock};
    Bytes decoded;           // from frame on
    std::uint64_t size = 0;  // all that was decoded
    std::size_t frame = 0;
    bool header_skipped = false;
    std::optional<wal::Checksum> sum;  // before the next frame; empty: what it follows is not here
    bool ended = false;
    std::uint32_t page = 0;       // of the frame at hand; 0: none yet
    std::uint32_t last_page = 0;  // … and of the one before it
    std::uint32_t last_commit_size = 0;
    std::uint32_t keep = 0;  // images for pages up to here outlive the inputs behind it
  };

  void begin(Bytes& out);
  void follow(std::size_t input);
  bool fill(Input& input);
  void read_header(Input& input) const;
  wal::FrameHeader read_frame(Input& input) const;
  void drop_frame(Input& input);
  ByteView image(const Input& input) const;
  bool add_zeros(std::uint32_t before);
  void add(std::uint32_t page, ByteView image);
  void flush(Bytes& out);

  std::uint32_t index_;
  std::vector<Input> inputs_;
  std::size_t reading_ = 0;
  Metadata metadata_;
  bool begun_ = false;
  bool done_ = false;

  std::uint32_t page_size_ = 0;
  std::uint32_t size_ = 0;       // of the database, at the end
  std::uint64_t next_zero_ = 0;  // pages from here on are zeros where they have no image
  std::uint64_t zeros_ = 0;      // bytes of such pages
  std::uint32_t held_page_ = 0;  // the last frame, kept back: it might be the commit
  Bytes held_;
  Bytes raw_;
  Bytes room_;  // what is decoded goes through it
  std::optional<wal::Encoder> encoder_;
  lz4::Compressor compressor_;
};

}  // namespace sqlstream
