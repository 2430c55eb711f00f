#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "restore/target_file.h"

namespace sqlstream {

/// The database being restored. Two threads may fill it at the same time: one writes the snapshot
/// from beginning to end, the other replays the WAL in order; the result is as if the snapshot had
/// been written first. (A page of the snapshot counts only if the WAL has not written it and no
/// batch so far was smaller.)
class DatabaseImage {
 public:
  explicit DatabaseImage(TargetFile& file) : file_(file) {}

  /// Throws Error when another one was set before. Must be set before write_page and, unless the
  /// WAL is replayed only after end_snapshot, before write_snapshot.
  void set_page_size(std::uint32_t page_size);
  std::uint32_t page_size() const { return page_size_; }

  /// The snapshot's side. The next bytes; whole pages once the page size is set. When it throws,
  /// the image is of no use, and the WAL's side waits for nothing any more.
  void write_snapshot(ByteView data);
  void end_snapshot();

  /// The WAL's side. A page of the batch that the next commit ends.
  void write_page(std::uint32_t page, ByteView data);
  /// True while the WAL is to wait for the snapshot to move: it has written in so many places ahead
  /// of it that to remember many more would take much memory. `pending` frames wait for their
  /// commit, to be written at once then: seldom each in another place, so a few of them count as
  /// one.
  bool crowded(std::uint64_t pending = 0);
  static constexpr std::size_t kMostChunks = 16384;  ///< 256 GiB of pages of 4 KiB, if in order
  /// Ends a batch: the database has `pages` pages now. What was beyond is gone for good.
  void commit(std::uint32_t pages);

  /// After both sides are done: gives the file its final size. Returns it in pages (0 when the page
  /// size is unknown).
  std::uint64_t finish();

 private:
  static constexpr std::uint32_t kChunkPages = 4096;
  static constexpr std::uint64_t kHandedOver = 8 << 20;  // at once: a large write
  using Chunk = std::array<std::uint64_t, kChunkPages / 64>;

  bool claimed(std::uint64_t page) const;
  // Of the snapshot's next bytes, those that count.
  using Runs = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
  Runs begin_window(std::uint64_t size);

  TargetFile& file_;
  std::uint32_t page_size_ = 0;

  std::mutex mutex_;
  std::condition_variable window_moved_;
  // The snapshot is written up to frontier_; [frontier_, window_end_) is being written.
  std::uint64_t frontier_ = 0;
  std::uint64_t window_end_ = 0;
  std::uint64_t handed_over_ = 0;  // of that, to the disk; the snapshot's side alone
  bool snapshot_done_ = false;
  // Bytes of the snapshot from here on do not count.
  std::uint64_t limit_ = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t high_ = 0;  // no byte beyond it was written
  std::optional<std::uint64_t> committed_size_;
  std::unordered_map<std::uint64_t, Chunk> claims_;  // pages the WAL wrote ahead of the frontier
};

}  // namespace sqlstream
