#pragma once

#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "base/error.h"
#include "format/lz4_frame.h"
#include "format/metadata.h"
#include "format/wal.h"
#include "restore/database_image.h"
#include "restore/plan.h"

/// Decoding objects into a DatabaseImage. Synchronous; one object of each class is used by one
/// thread at a time. Damage throws Error, with what is wrong but not where: the caller knows the
/// object.
namespace sqlstream {

/// Something between the last segment and this one is not there.
class SegmentMissing : public Error {
 public:
  using Error::Error;
};

/// Decodes a snapshot, fed in pieces of any length.
class SnapshotReplay {
 public:
  explicit SnapshotReplay(DatabaseImage& image) : image_(image) {}

  void write(ByteView stored);
  /// The snapshot is complete.
  void finish();

  /// True when the WAL may be replayed at the same time: the page size is known.
  bool page_size_known() const { return image_.page_size() != 0; }
  const std::optional<Metadata>& metadata() const { return metadata_; }

 private:
  void accept(ByteView data);
  void find_page_size();
  [[noreturn]] void fail_size() const;

  DatabaseImage& image_;
  lz4::Decompressor decompressor_;
  std::optional<Metadata> metadata_;
  bool begun_ = false;
  bool looked_for_page_size_ = false;
  std::uint64_t size_ = 0;
  Bytes carried_;  // the beginning of a page, or of the database
};

/// Frames of a transaction whose commit was not seen yet: in memory, and in a scratch file when
/// they are many.
class PendingFrames {
 public:
  explicit PendingFrames(const TargetFile& target) : target_(target) {}
  bool empty() const { return count_ == 0; }
  std::uint64_t count() const { return count_; }
  void add(std::uint32_t page, ByteView data);
  void apply(DatabaseImage& image);
  void drop();

 private:
  static constexpr std::size_t kMemory = 1 << 20;

  const TargetFile& target_;
  std::uint64_t count_ = 0;
  Bytes memory_;  // the last of them, each behind its page's number
  std::optional<ScratchFile> scratch_;
  std::uint64_t scratch_size_ = 0;
};

/// Replays a generation's WAL behind a snapshot, segment by segment in order.
class WalReplay {
 public:
  WalReplay(DatabaseImage& image, const TargetFile& target) : image_(image), pending_(target) {}

  /// What the WAL follows, where known: so that nothing is missing in between.
  void follow(const Metadata& snapshot) { last_sequence_ = snapshot.last_sequence; }

  /// What comes next must wait for more of the snapshot.
  bool waits() const { return image_.crowded(pending_.count()); }
  /// Throws SegmentMissing when the segment (a compacted one, too) does not follow what was
  /// replayed.
  void begin(const replica::Segment& segment, const std::optional<Metadata>& metadata);
  void write(ByteView stored);
  void end();

  /// The last commit replayed; empty before the first.
  struct Reached {
    Position position;
    Time time{};
  };
  const std::optional<Reached>& reached() const { return reached_; }

 private:
  void begin_compacted(const replica::Segment& segment, const std::optional<Metadata>& metadata);
  void take(const wal::Decoder::Frame& frame);
  void end_compacted();

  DatabaseImage& image_;
  PendingFrames pending_;
  std::optional<Reached> reached_;

  std::optional<std::uint32_t> index_;
  wal::Decoder decoder_;                // of the segments as they were shipped
  std::optional<wal::Decoder> folded_;  // of the frames of a compacted one
  std::uint64_t last_sequence_ = 0;     // 0: not known

  // Of the segment begun.
  lz4::Decompressor decompressor_;
  std::optional<Metadata> metadata_;
  Time time_{};
  std::uint64_t begin_offset_ = 0;
  std::uint64_t frames_begin_ = 0;   // where the decoder stood
  std::uint64_t most_bytes_ = 0;     // its frames can have; known from its metadata
  std::uint64_t known_bytes_ = 0;    // at its beginning, already replayed from the one before
  std::uint64_t commit_offset_ = 0;  // behind its last commit; 0: none yet
  bool ends_on_commit_ = false;      // known from its metadata
  bool after_commit_ = false;        // its last frame was a commit
};

}  // namespace sqlstream
