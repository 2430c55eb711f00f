#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "shipper/backoff.h"
#include "shipper/batch.h"
#include "shipper/database.h"
#include "shipper/group_commit.h"
#include "shipper/guard.h"
#include "shipper/replica_note.h"
#include "store/replica.h"

namespace sqlstream {

class Maintenance;
class SnapshotImage;
class Validation;

/// Between the tries of a store that fails; `refused`: it is there, and says no.
Backoff store_backoff(bool refused);

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
  void stop();

  /// There may be new records.
  void notify() { signal_.notify(); }
  std::size_t number() const { return number_; }
  /// True when nothing more can be done for batches up to `sequence`.
  bool settled(std::uint64_t sequence) const { return status_.settled >= sequence; }
  /// Since when the store says no, or cannot be reached, whatever is tried. Empty: it does not, or
  /// something is being tried.
  struct Failing {
    std::chrono::steady_clock::time_point since;
    bool refused = false;  ///< it can be reached
  };
  std::optional<Failing> failing() const { return resting_ ? failing_ : std::nullopt; }
  /// What was tried last was written, or there is nothing left to write.
  bool takes_data() const { return takes_data_; }
  /// A snapshot is being made or uploaded: whoever went on would begin with it again. Its end is
  /// told to the Database.
  bool writes_snapshot() const;

  // --- For folding the outbox.
  /// Log files of the outbox are read through their names while one of these lives.
  class Reading {
   public:
    explicit Reading(int& readers) : readers_(readers) { ++readers_; }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    ~Reading() { --readers_; }

   private:
    int& readers_;
  };
  /// `signal`: the caller's own, which is notified at the end of a fold.
  asio::awaitable<std::unique_ptr<Reading>> begin_reading(Signal& signal);
  bool reading() const { return readers_ > 0; }
  /// What of the outbox must not be folded now. Not while reading().
  std::vector<OutboxUse> uses() const;
  void folded();
  /// The outbox is half full: a later snapshot's copy holds back nothing any more.
  void make_room();

  /// For a process that is about to end.
  void stop_validating();

  // --- For Maintenance and Validation.
  Database& database() { return database_; }
  Store& store() { return *store_; }
  const ReplicaSettings& settings() const { return settings_; }
  bool stopping() const { return stopping_; }
  /// The generation being shipped, when the replica is in a known state and takes data.
  std::optional<Generation> shipping() const;
  /// When the last commit was made that the replica has whole; empty: not known.
  std::optional<Time> shipped_until() const;
  /// The note has the state of another validation.
  void validated();
  /// How long ago this process last wrote a segment or a snapshot, or found out where the replica
  /// ends. Precondition: shipping().
  std::chrono::nanoseconds since_last_write() const;
  /// Has the replica's end asked for anew.
  void look_again();
  ReplicaNote& note() { return note_; }
  /// Never fails: a note is a hint. False when it could not be written.
  asio::awaitable<bool> save_note();
  /// While held, no batch is begun; the one in progress goes on.
  void hold(bool held);
  /// Ends the index behind the batch `sequence`, which is not in the replica yet or its last one.
  void roll_behind(std::uint64_t sequence);
  /// The index that began there; empty until all before it is in the replica, and the outbox's note
  /// says so. Gives up (and is empty for good) when the generation ends.
  std::optional<std::uint32_t> rolled() const { return rolled_; }
  bool rolling() const { return roll_at_ != 0; }
  /// Whether nothing is behind what this process knows of in the index before rolled().
  asio::awaitable<bool> ends_as_known(Generation generation);
  /// An object of that many stored bytes was put.
  void spent(std::uint64_t stored);
  /// A snapshot of that many stored bytes has landed; for the note, which the caller saves.
  void snapshot_written(std::uint64_t stored);
  Writer writer() const { return {host_, database_.path()}; }
  /// The metadata of a snapshot, without what its generation was begun behind.
  Metadata snapshot_metadata(const SnapshotImage& image) const;

 private:
  asio::awaitable<void> ship();
  asio::awaitable<void> step();
  asio::awaitable<void> pace();
  asio::awaitable<void> gather();
  void promise(std::uint64_t enough);
  asio::awaitable<bool> seek(std::uint64_t sequence);
  asio::awaitable<bool> still_there();
  asio::awaitable<bool> is_last(Generation generation, Position segment);
  asio::awaitable<void> guard();
  asio::awaitable<bool> locate(const capture::Tail& tail);
  asio::awaitable<std::string> compare(const ReplicaEnd& end, const capture::Tail& tail);
  asio::awaitable<std::string> look_at_end(Generation generation,
                                           std::vector<replica::Snapshot> snapshots,
                                           const capture::Tail& tail,
                                           std::optional<ReplicaEnd>& found);
  asio::awaitable<std::optional<ReplicaEnd>> find_end(Generation generation,
                                                      std::optional<ReplicaEnd> known,
                                                      std::vector<replica::Snapshot> snapshots);
  asio::awaitable<bool> write_snapshot(const capture::Tail& tail);
  asio::awaitable<std::unique_ptr<SnapshotImage>> copy_database(
      Generation generation, const std::function<bool()>& wanted);
  /// A batch on its way, with the first of its objects.
  struct Shipment {
    std::shared_ptr<Batch> batch;  // null: there is none
    std::unique_ptr<SegmentEncoder> encoder;
    SegmentObject object;
  };
  /// The note as it is now, to be written on a worker.
  struct NoteToSave {
    ReplicaNote note;
    std::uint64_t number = 0;
  };
  NoteToSave note_to_save() { return {note_, ++notes_}; }
  bool write_note(const NoteToSave& saving);
  Shipment next_shipment(std::uint64_t last, NoteToSave saving);
  asio::awaitable<bool> write(Shipment& shipment);
  asio::awaitable<bool> put(SegmentObject& object);
  std::shared_ptr<Batch> next_batch(std::uint64_t last);
  void report(const std::string& error);
  asio::awaitable<void> advance(ReplicaEnd end, Time commit_time);
  asio::awaitable<void> roll();
  void forget_end();
  void saw_end(const ReplicaEnd& end);
  std::string noted_writer() const;
  void settle(std::uint64_t sequence);

  Database& database_;
  std::size_t number_;
  const ReplicaSettings& settings_;
  std::string host_;
  std::unique_ptr<Store> store_;
  Signal signal_;
  OutboxReader reader_;
  std::optional<ReplicaEnd> end_;          // what this process knows of the replica's end
  std::optional<GenerationEnd> seen_end_;  // what the replica was last known to end with
  std::uint64_t folds_ = 0;  // Database::folds() when reader_ was last put in its place
  int readers_ = 0;
  bool begins_ = false;
  bool held_ = false;
  bool located_ = false;  // end_ was compared with the store, and reader_ stands behind it
  bool resting_ = false;  // behind a failure, before it is tried again
  bool stopping_ = false;
  bool noted_ours_ = false;  // the replica was this database's, as the outbox says
  bool guarded_ = false;     // and is, or nobody else has written there since
  bool takes_data_ = false;
  bool promised_ = false;          // to capture for those that wait
  std::uint64_t in_flight_ = 0;    // the last sequence of the batch being shipped; 0: none
  std::uint64_t snapshot_at_ = 0;  // where the first snapshot, being uploaded, ends; 0: none
  std::uint64_t roll_at_ = 0;      // the index ends behind this batch; 0: nowhere
  std::optional<std::uint32_t> rolled_;
  std::optional<Position> before_roll_;  // the last segment before that
  std::string note_path_;
  ReplicaNote note_;
  std::uint64_t notes_ = 0;        // handed to workers
  std::mutex saving_;              // workers save notes in the order they were handed over
  std::uint64_t saved_notes_ = 0;  // saving_
  std::atomic<bool> note_unsaved_{false};
  std::unique_ptr<Maintenance> maintenance_;
  std::unique_ptr<Validation> validation_;
  std::chrono::steady_clock::time_point seen_{};  // the replica, or taken, to have its snapshot
  std::optional<Failing> failing_;
  std::string refused_for_;  // AnotherWriter::who(), if that was the last error
  ReplicaStatus status_;
  std::chrono::steady_clock::time_point last_put_{};    // begun
  std::chrono::steady_clock::time_point last_write_{};  // done
  GroupCommit group_;
};

}  // namespace sqlstream
