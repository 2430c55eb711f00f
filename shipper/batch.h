#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "capture/outbox.h"
#include "format/lz4_frame.h"
#include "format/merged_pages.h"
#include "format/metadata.h"
#include "format/position.h"
#include "format/wal.h"

/// From records in the outbox to objects of a replica.
namespace sqlstream {

/// Reads an outbox's records in order, oldest first. Only what the outbox's tail covers is looked
/// at, so a record being appended meanwhile is never seen half. Not thread-safe.
class OutboxReader {
 public:
  explicit OutboxReader(std::string directory) : directory_(std::move(directory)) {}

  struct Entry {
    std::shared_ptr<capture::LogFile> file;
    capture::LogFile::Found found;
    std::uint64_t first_sequence = 0;  ///< of the batches this record stands for
  };

  /// Goes to the batch behind `sequence`. False when it was never here, is deleted, or was folded
  /// together with the one before it. Throws when files cannot be read.
  bool seek(std::uint64_t sequence, const std::vector<std::uint64_t>& files);

  /// The generation of the log file the next batch is in; empty before seek().
  std::optional<Generation> generation() const;
  /// The chain value after the last batch passed, or after the last before the file.
  std::uint64_t batch_chain() const { return batch_chain_; }

  /// The next batch with a sequence <= `last`; empty when there is none. Throws Error when the log
  /// is damaged before it.
  std::optional<Entry> next(std::uint64_t last);
  /// The next() batch's generation, without taking it.
  std::optional<Generation> next_generation(std::uint64_t last);

 private:
  bool open_file(std::uint64_t first);
  std::optional<Entry> peek(std::uint64_t last);

  std::string directory_;
  std::shared_ptr<capture::LogFile> file_;
  std::uint64_t offset_ = 0;
  std::uint64_t chain_ = 0;  // after the last record passed
  std::uint64_t batch_chain_ = 0;
  std::uint64_t sequence_ = 0;  // of the last batch passed
};

/// When the first commit behind `sequence` was made of those that the outbox in `directory` holds,
/// to its batch `last` in its log files `files` (ascending, at least one); empty: none is there.
/// Throws as OutboxReader.
std::optional<Time> first_commit_behind(const std::string& directory,
                                        const std::vector<std::uint64_t>& files,
                                        std::uint64_t sequence, std::uint64_t last);

/// Records folded into one: the newest image of each page, by its place in the outbox.
class Batch {
 public:
  void add(const OutboxReader::Entry& entry);

  bool empty() const { return entries_.empty(); }
  std::uint64_t image_bytes() { return pages_.count() * std::uint64_t{page_size_}; }
  /// Whether that is less: quickly, for batches that grow by a page at a time.
  bool smaller_than(std::uint64_t bytes) {
    return pages_.count_at_most() * std::uint64_t{page_size_} < bytes || image_bytes() < bytes;
  }
  std::uint32_t page_size() const { return page_size_; }
  std::uint64_t first_sequence() const { return first_sequence_; }
  std::int64_t first_commit() const { return first_commit_; }
  const capture::Record& last() const { return last_; }
  std::uint64_t commits() const { return commits_; }

  struct Image {
    std::uint32_t entry = 0;  // which record; kZeros: none, an image of zeros
    std::uint32_t index = 0;  // which page in it
    std::uint32_t hash = 0;
  };
  static constexpr std::uint32_t kZeros = UINT32_MAX;
  using Pages = MergedPages<Image>::Pages;
  /// Ascending by page; until the next add(). Pages that went and came back without an image are
  /// zeros.
  const Pages& pages();
  void read(std::uint32_t page, const Image& image, std::span<std::uint8_t> out) const;

 private:
  std::vector<OutboxReader::Entry> entries_;
  MergedPages<Image> pages_;
  std::uint32_t page_size_ = 0;
  std::uint64_t commits_ = 0;
  std::uint64_t first_sequence_ = 0;
  std::int64_t first_commit_ = 0;
  capture::Record last_;
};

/// Where a replica ends: what the next segment continues.
struct ReplicaEnd {
  Generation generation;
  Position position;             ///< where the next segment begins
  std::optional<Position> last;  ///< where the last one begins; empty: only snapshots are known of
  wal::Salt wal_salt{};          ///< of the WAL at position.index; unused while offset is 0
  wal::Checksum wal_sum{};
  std::uint64_t sequence = 0;  ///< of the last batch that is wholly in the replica
  std::uint64_t chain = 0;     ///< the outbox's chain there
  /// A batch whose first objects are in the replica and whose last is not: its last sequence (0:
  /// none), how many of its frames are there, and the outbox's chain behind it, as the replica says
  /// (not in notes). It must be folded the same way again.
  std::uint64_t open_batch = 0;
  std::uint32_t open_frames = 0;
  std::uint64_t open_chain = 0;
};

/// Puts `reader` behind the batches that are in a replica which ends at `end`. False when the
/// outbox does not hold these very batches: others can have their sequences after a crash of the
/// machine. False, too, when another generation follows them. Throws as OutboxReader.
bool seek_behind(OutboxReader& reader, const ReplicaEnd& end,
                 const std::vector<std::uint64_t>& files);

/// One segment object, ready to be put.
struct SegmentObject {
  std::string key;
  Position begin;
  Bytes body;
  Time commit_time;
  ReplicaEnd end;  ///< of the replica once the object is there
  std::uint32_t frames = 0;
};

/// Encodes a batch as segment objects, one after the other, so that at most one is in memory. A
/// batch over 8 MiB spans several; only the last ends with the commit frame. Rolls to the next
/// index where the batch would not fit below 4 GiB. Not thread-safe; may move between threads.
class SegmentEncoder {
 public:
  static constexpr std::uint64_t kObjectSize = 8ULL << 20;

  /// `host` and `database` go into the metadata; an object has at most `object_size` bytes
  /// uncompressed, but at least one frame. Precondition: !batch.empty().
  SegmentEncoder(std::shared_ptr<Batch> batch, const ReplicaEnd& end, std::string host,
                 std::string database, std::uint64_t object_size = kObjectSize,
                 lz4::Effort effort = lz4::Effort::fast);
  bool done() const { return next_ == pages_.size() && made_any_; }
  SegmentObject next();

 private:
  std::shared_ptr<Batch> batch_;
  const Batch::Pages& pages_;  // its
  ReplicaEnd end_;
  std::string host_;
  std::string database_;
  std::uint64_t object_size_;
  lz4::Effort effort_;
  std::size_t next_ = 0;
  bool made_any_ = false;
};

}  // namespace sqlstream
