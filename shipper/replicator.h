#pragma once

#include <memory>
#include <optional>
#include <string>

#include "shipper/batch.h"
#include "shipper/database.h"
#include "store/replica.h"

namespace sqlstream {

/// What the last process that shipped noted in the outbox: a hint that saves listing the replica
/// from its beginning, and what the other processes see of the progress. Empty when there is none.
std::optional<ReplicaEnd> load_replica_end(const std::string& outbox, const std::string& url);
void save_replica_end(const std::string& outbox, const std::string& url, const ReplicaEnd& end,
                      mode_t mode);

/// Ships one database's outbox to one replica: the generation's snapshot, then segments, strictly
/// in order. Lives on the engine's thread, while this process has the shipping role.
class Replicator {
 public:
  /// `database` must outlive the Replicator. Throws Error for settings that cannot work.
  Replicator(Database& database, std::size_t number);
  ~Replicator();

  /// Ships until stop(); errors of the store are reported, and tried again with backoff for as long
  /// as it takes.
  asio::awaitable<void> run();
  void stop() {
    stopping_ = true;
    notify();
  }

  /// There may be new records.
  void notify() { signal_.notify(); }
  std::size_t number() const { return number_; }
  /// True while log files of the outbox are read through their names.
  bool reading() const { return reading_; }
  /// What of the outbox must not be folded now. Not while reading().
  OutboxUse use() const;
  /// True when nothing more can be done for batches up to `sequence`.
  bool settled(std::uint64_t sequence) const { return status_.settled >= sequence; }

 private:
  asio::awaitable<void> step();
  asio::awaitable<void> pace();
  asio::awaitable<bool> seek(std::uint64_t sequence);
  class Reading;
  asio::awaitable<std::unique_ptr<Reading>> begin_reading();
  asio::awaitable<bool> locate(const capture::Tail& tail);
  asio::awaitable<std::optional<ReplicaEnd>> find_end(Generation generation,
                                                      std::optional<ReplicaEnd> known);
  asio::awaitable<bool> write_snapshot(const capture::Tail& tail);
  asio::awaitable<bool> write_batch(std::shared_ptr<const Batch> batch);
  asio::awaitable<bool> put(SegmentObject& object);
  std::shared_ptr<const Batch> next_batch(std::uint64_t last);
  void report(const std::string& error);
  asio::awaitable<void> advance(ReplicaEnd end, Time commit_time);
  void settle(std::uint64_t sequence);

  Database& database_;
  std::size_t number_;
  const ReplicaSettings& settings_;
  std::string host_;
  std::unique_ptr<Store> store_;
  Signal signal_;
  OutboxReader reader_;
  std::optional<ReplicaEnd> end_;  // what this process knows of the replica's end
  std::uint64_t folds_ = 0;        // Database::folds() when reader_ was last put in its place
  bool reading_ = false;
  std::uint64_t in_flight_ = 0;    // the last sequence of the batch being shipped; 0: none
  std::uint64_t snapshot_at_ = 0;  // where the snapshot being uploaded ends; 0: none
  bool located_ = false;           // end_ was compared with the store, and reader_ stands behind it
  bool stopping_ = false;
  ReplicaStatus status_;
  std::chrono::steady_clock::time_point last_put_{};
};

}  // namespace sqlstream
