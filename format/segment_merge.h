#pragma once

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
/// large they are. The result replays to the same database as the inputs one after another.
///
/// Sans-io: give() what run() asks for. Not thread-safe; may move between threads.
class SegmentMerge {
 public:
  /// These cannot be folded, and never will be: not ours, not adjacent, cut inside a transaction.
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

  /// Of the object; after the first bytes of it.
  const Metadata& metadata() const { return metadata_; }

 private:
  struct Input {
    Span span;
    std::optional<Metadata> metadata;
    Bytes stored;  // not decoded yet, from taken on
    std::size_t taken = 0;
    bool last_given = false;
    lz4::Decompressor decompressor;
    Bytes decoded;  // from frame on
    std::size_t frame = 0;
    bool header_skipped = false;
    bool ended = false;
    std::uint32_t page = 0;  // of the frame at hand; 0: none yet
    std::uint32_t last_commit_size = 0;
    std::uint32_t keep = 0;  // images for pages up to here outlive the inputs behind it
  };

  void begin(Bytes& out);
  bool fill(Input& input);
  void drop_frame(Input& input);
  ByteView image(const Input& input) const;
  void add_zeros(std::uint32_t before);
  void add(std::uint32_t page, ByteView image);
  void flush(Bytes& out);

  std::uint32_t index_;
  std::vector<Input> inputs_;
  Metadata metadata_;
  bool begun_ = false;
  bool done_ = false;

  std::uint32_t page_size_ = 0;
  std::uint32_t size_ = 0;       // of the database, at the end
  std::uint64_t next_zero_ = 0;  // pages from here on are zeros where they have no image
  std::uint32_t held_page_ = 0;  // the last frame, kept back: it might be the commit
  Bytes held_;
  Bytes raw_;
  Bytes room_;  // what is decoded goes through it
  std::optional<wal::Encoder> encoder_;
  lz4::Compressor compressor_;
};

}  // namespace sqlstream
