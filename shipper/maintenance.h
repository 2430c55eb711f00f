#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "format/position.h"
#include "shipper/compaction.h"
#include "shipper/database.h"
#include "shipper/deletion.h"
#include "shipper/engine.h"
#include "shipper/retention.h"

namespace sqlstream {

class Replicator;
class SnapshotImage;

/// When a replica needs a new snapshot within its generation. Pure.
struct SnapshotRule {
  std::optional<std::chrono::nanoseconds> interval;  ///< asked for by the user
  std::chrono::nanoseconds retention;  ///< what is older is to be deletable; 0 or less: nothing is

  /// The moment from which one is due; empty while nothing was shipped since the last. All sizes in
  /// stored bytes.
  ///
  /// Replaying more than kWorth times a snapshot's bytes costs more than another one. A small one
  /// waits for kLeastBytes, which are replayed within seconds: for a database of 10 MiB under
  /// steady updates snapshots are then a twenty-fifth of what is sent.
  static constexpr std::uint64_t kWorth = 4;
  static constexpr std::uint64_t kLeastBytes = 256ULL << 20;
  std::optional<Time> due(Time last_snapshot, std::uint64_t snapshot_size,
                          std::uint64_t bytes_since) const;

  /// When one that was due is to be begun, where another was begun at `tried` and not finished: the
  /// longer it is overdue, the less often, so that processes which all end too soon for it do not
  /// upload the beginning of one for ever.
  static Time again(Time due, Time tried);
};

/// Beside a replica's segments: folding many small ones, later snapshots, which begin a new index
/// and do not hold segments back, and the deletion of what the retention lets go. Sleeps on one
/// timer, for the next of these that is due. Lives on the engine's thread, as long as its
/// Replicator.
class Maintenance {
 public:
  explicit Maintenance(Replicator& replicator);
  asio::awaitable<void> run();
  /// The replicator moved on.
  void notify() { signal_.notify(); }
  /// Before an exit can hear that all is shipped: lets it wait for what is due now, until notify()
  /// is heard and that is done, or is not to be had.
  void announce();
  void shipped(Generation generation, const replica::Segment& segment) {
    compaction_.shipped(generation, segment);
  }
  /// A copy in the making is given up: the outbox is filling with what it needs.
  void make_room() { room_wanted_ = true; }
  /// True while a later snapshot is being made or uploaded; its end is told to the Replicator
  /// and the Database.
  bool writing() const { return writing_; }

 private:
  void set_clock_right();
  bool compaction_due() const;
  std::optional<Time> snapshot_due() const;
  std::optional<Time> retention_due() const;
  asio::awaitable<void> compact();
  asio::awaitable<void> write_snapshot();
  asio::awaitable<std::optional<std::uint64_t>> upload(SnapshotImage& image, std::uint32_t index,
                                                       const std::function<bool()>& wanted);
  asio::awaitable<std::optional<std::uint64_t>> find_own(const SnapshotImage& image,
                                                         std::uint32_t index);
  asio::awaitable<void> give_up(const char* why, Generation generation);
  asio::awaitable<std::unique_ptr<SnapshotImage>> begin_image(Generation generation);
  asio::awaitable<std::unique_ptr<SnapshotImage>> image_in_place(Generation generation);
  asio::awaitable<std::unique_ptr<SnapshotImage>> copy_database(Generation generation);
  asio::awaitable<void> release_outbox();
  asio::awaitable<void> enforce_retention();
  asio::awaitable<void> abort_stale_uploads();
  asio::awaitable<bool> is_of_neighbour(const GenerationObjects& objects);
  Time store_time(const std::vector<GenerationObjects>& objects) const;

  Replicator& replicator_;
  Deletion deletion_;
  Compaction compaction_;
  Signal signal_;
  Time tried_before_;  // when a snapshot was last begun by whoever had the role before
  std::chrono::steady_clock::time_point not_before_{};
  bool writing_ = false;
  bool room_wanted_ = false;
  bool impossible_ = false;
  std::optional<Database::Tidying> tidying_;
  std::string last_error_;
};

}  // namespace sqlstream
