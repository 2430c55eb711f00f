#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "capture/capturer.h"
#include "capture/old_pages.h"
#include "shipper/connection.h"
#include "shipper/durability.h"
#include "shipper/engine.h"
#include "shipper/fold.h"
#include "shipper/replica_note.h"
#include "shipper/settings.h"

namespace sqlstream {

class Replicator;

/// True when a capture left nothing visible uncaptured.
inline bool seen_through(capture::Outcome outcome) {
  return outcome == capture::Outcome::captured || outcome == capture::Outcome::up_to_date;
}

/// The wal-index regions one connection has mapped. Written by that connection's thread under
/// Database::mapping_mutex(), so that a background capture may use them meanwhile.
struct Mapping {
  std::vector<const volatile void*> regions;
  capture::FileIdentity file;  ///< what the connection has open; no inode: not known
  int readers = 0;             ///< background captures using it; it must not be unmapped meanwhile
};

/// What a replica's shipper last said about itself.
struct ReplicaStatus {
  Generation generation;
  Position position;
  std::uint64_t sequence = 0;  ///< last batch that is in the replica
  std::uint64_t settled = 0;   ///< nothing more can be done for batches up to this one
  Time commit_time{};          ///< of its last commit
  Time snapshot_time{};        ///< when the last snapshot was written by this process
  std::string error;           ///< empty: none
  Time error_since{};
  ValidationState validation;
};

/// One replicated database in this process: its outbox and capture, shared by all connections, and
/// the coroutines that ship. Thread-safe unless stated; connections and coroutines share ownership.
class Database : public std::enable_shared_from_this<Database> {
 public:
  /// The process's object for this database (per Host: two SQLite libraries do not share), with one
  /// connection more; closed() ends that.
  static std::shared_ptr<Database> attach(const Host& host, const DatabaseSettings& settings);
  /// In what the connections that have it open differ from these settings, and go on in; empty: in
  /// nothing that tells where it is shipped.
  static std::string conflict(const Host& host, const DatabaseSettings& settings);
  /// The attached ones.
  static std::vector<std::shared_ptr<Database>> all();
  /// Those that were attached, until they have left the shipping to who is attached now.
  static std::vector<std::shared_ptr<Database>> retired();
  static std::shared_ptr<Database> find(const std::string& path);

  Database(const Host& host, DatabaseSettings settings);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  const std::string& path() const { return settings_.path; }
  const DatabaseSettings& settings() const { return settings_; }
  const Host& host() const { return host_; }
  /// False in a forked child: the object is the parent's, and must be left alone.
  bool ours() const;

  // --- For connections.
  /// `waits`: the new one's commits do.
  void opened(bool waits);
  void closed();
  /// Synchronously, on the application's thread. `own`: the caller's mapping; `map_more` maps a
  /// region through the caller's connection. `must`: what is not captured now is about to be lost,
  /// so a failure gives the generation up; else `patience` bounds the wait further.
  using MapMore = std::function<const volatile void*(std::size_t region)>;
  capture::Outcome capture(
      Mapping& own, const MapMore& map_more, bool must,
      std::chrono::nanoseconds patience = std::chrono::nanoseconds::max()) noexcept;
  /// The same with `must`, before the caller's checkpoint writes; and behind that.
  /// `before`: see capture::Source.
  capture::Outcome checkpoint_begins(Mapping& own, const MapMore& map_more,
                                     capture::CheckpointProgress before) noexcept;
  void checkpoint_ended(const Mapping& own) noexcept;
  /// The same for one whose end nothing tells of: the background looks until it has come.
  void look_behind_checkpoint() noexcept;
  void note_new_wal(Mapping& own, std::optional<wal::Salt> salt);
  void note_clean_close(const Mapping& own);
  /// Another file than the one `opened` has the database's name, or none: what is committed to it
  /// is not replicated.
  bool is_moved(const capture::FileIdentity& opened) const;
  static constexpr const char* kMoved =
      "the database file was moved, deleted or replaced while it was open, and what is committed "
      "to it now is not replicated; close it, or restart the program, to use the one that is there";
  /// Ends the current generation; when `only` is given, only that one.
  void give_up(std::string_view why, std::optional<Generation> only = {});
  /// The application chose a journal mode other than WAL: replication pauses until it is back, or
  /// until another file is in the database's place.
  void leave_wal();
  bool left_wal();
  /// Why nothing can be captured at all, for the status; empty: it can. `refusable`: writes can
  /// still be refused meanwhile.
  void set_obstacle(const std::string& obstacle, bool refusable = true);

  std::mutex& mapping_mutex() { return mapping_mutex_; }
  void mapped(Mapping& mapping);
  /// A connection is about to recover the wal-index.
  void recovering() noexcept { recovered_.store(true); }
  void unmapped(Mapping& mapping);

  /// A commit of this process is visible. Cheap.
  void committed(std::uint32_t change) noexcept;
  /// Asks for a background capture, and what it finds to be shipped.
  void wake() noexcept;
  /// Asks for a background capture now, however short the last one is ago, of what is to be shipped
  /// at its time. Cheap. Meant for every kPiece frames of the WAL, so that little is left to the
  /// thread that resets it: a quarter of what SQLite lets it grow to.
  void capture_soon() noexcept;
  static constexpr std::uint32_t kPiece = 250;
  /// The wal-index's change counter last seen, for noticing a commit cheaply.
  static constexpr std::uint64_t kNoChange = UINT64_MAX;
  std::atomic<std::uint64_t> seen_change{kNoChange};

  // The synchronous mode; see Connection.
  std::uint64_t take_ticket() noexcept { return durability_.take_ticket(); }
  /// `capture` captures on the caller's thread, waiting for locks as long as it is told.
  using CaptureNow = std::function<capture::Outcome(std::chrono::nanoseconds patience)>;
  void wait_durable(std::uint64_t ticket, SyncTerms terms, std::chrono::milliseconds limit,
                    const CaptureNow& capture);
  bool refuses_writes(SyncTerms terms);
  /// Nobody waits for a commit any more.
  void stop_waiting() { durability_.stop(); }

  /// `sync`: how long the asking connection's commits wait, and `terms` for what. `moved`: what it
  /// has open is.
  std::string status_json(std::chrono::milliseconds sync, SyncTerms terms, bool moved, bool seen);
  /// Waits until all that is committed now is in every replica, over the end of a generation too.
  bool wait_shipped(std::chrono::milliseconds limit);
  /// See flush_databases().
  static void flush_all(bool hurry);
  /// Behind the last flush. When the engine's threads have ended others may ship from now on, not
  /// only when the process is gone.
  static void end_all(bool engine_ended);
  /// Tells the process that ships that there is something. False: there is none, or it is not known
  /// in that time.
  bool tell_who_ships(std::chrono::nanoseconds patience);
  /// A new generation begins without a pause from now on.
  void hurry();

  // --- For coroutines (the engine's thread) and what they run on workers.
  /// What is committed is known: all of it, captured through a wal-index, or where none is mapped
  /// here, or only one that is no longer the database file's, what others captured. None: not now.
  enum class Sight { none, outbox, wal_index };
  Sight see();
  /// Captures through any mapped connection, or only looks what others appended.
  capture::Outcome capture_in_background(bool* saw_wal_index = nullptr) noexcept;
  /// Looks at the outbox: another process may have captured something. On a worker. False: it
  /// cannot be told now; `fault`: why, where it is no matter of waiting.
  bool look_anew(std::string* fault = nullptr) noexcept;
  /// The outbox as last looked at; empty before anything was captured.
  std::optional<capture::Tail> tail() const;
  bool generation_alive() const { return alive_.load(); }
  bool has_mapping();
  /// On the engine's thread: a snapshot is wanted, and no connection here has read the database, so
  /// this process cannot make one. Whoever can may ship then.
  void cannot_see();
  /// On the engine's thread: something came to its end that the role may have been held for, as a
  /// snapshot, or an attempt to ship.
  void reconsider_role() noexcept { tell(kRole); }

  // --- For snapshots in place; on workers.
  /// Announces one of the state that was captured last, which must be of a generation that goes on.
  /// Empty when another one is in the making, or it cannot be.
  struct InPlace {
    capture::OldPages pages;
    capture::Tail at;
  };
  std::optional<InPlace> begin_in_place();
  /// After the pages were read: whether all that was overwritten since was saved. `unannounced`:
  /// somebody goes further than he said; if he is to say so, he does soon. `unseen`: no connection
  /// here has the wal-index mapped now.
  enum class Proof { exact, not_yet, unannounced, unseen, not_exact };
  Proof prove_in_place(const capture::OldPages& pages, const capture::Tail& at);
  /// Nothing need be saved any more. Does not wait; trim() tidies up behind it.
  void end_in_place() noexcept;
  /// Its id, as the last capture saw it; 0: none.
  std::uint64_t snapshot_in_place() const { return in_place_.load(std::memory_order_relaxed); }
  /// So many bytes its saved pages may take, since outbox-max-size counts them, too.
  std::uint64_t room_for_pages() const { return room_for_pages_.load(std::memory_order_relaxed); }
  /// One came to nothing, since something was not saved: the next snapshot is of a local copy.
  void copy_next_snapshot() { copy_next_.store(true); }
  bool take_copy_next() { return copy_next_.exchange(false); }
  /// Why a snapshot in place could not begin, empty where one did; whether that is news. On the
  /// engine's thread.
  bool news_of_copies(const std::string& why) {
    return std::exchange(why_copies_, why) != why && !why.empty();
  }

  std::string outbox_directory() const;
  /// False: it was deleted, or another one is in its place. Takes no lock.
  bool is_outbox_there() const;
  std::vector<std::uint64_t> log_files();
  std::uint64_t connections() const { return connections_.load(); }
  bool flushing() const { return flushing_.load() > 0; }
  /// As flushing(), since the program ends, or the connection does.
  bool ending() const { return ending_.load() > 0; }
  /// Somebody waits for a commit that a replica ending at `sequence` has not.
  bool hurried(std::uint64_t sequence) const { return hurry_.load() > sequence; }
  /// How many commits there are that wait, or waited, and how many of them were captured so far.
  std::uint64_t tickets() const { return durability_.tickets(); }
  std::uint64_t captured_tickets() const { return durability_.captured_tickets(); }
  std::size_t replicas() const { return settings_.replicas.size(); }
  /// See Durability. Who promises captures for those that wait; the engine's thread is told when
  /// there are enough.
  void promise(std::uint64_t enough) { durability_.promise(enough); }
  /// Captures what waits, and has it shipped at once. On a worker. False: not all of it.
  bool capture_for_waiters() noexcept;
  /// The replica is proven to have everything up to there.
  void shipped(std::size_t replica, Durability::End end);
  void set_status(std::size_t replica, ReplicaStatus status);
  /// trim() need keep nothing up to there for the replica, whose status says so soon.
  void settle(std::size_t replica, std::uint64_t sequence);
  /// Deletes what every replica has, and none keeps.
  void trim();
  /// A replica needs the batches from `first` on (UINT64_MAX: none), though it has them.
  void keep_from(std::size_t replica, std::uint64_t first);
  /// Keeps them while it lives.
  class Kept {
   public:
    Kept(Database& database, std::size_t replica, std::uint64_t first)
        : database_(database), replica_(replica) {
      database.keep_from(replica, first);
    }
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;
    ~Kept() { database_.keep_from(replica_, UINT64_MAX); }

   private:
    Database& database_;
    std::size_t replica_;
  };
  /// Lets a flush wait while a validation, which it ends, is under way.
  class Validating {
   public:
    explicit Validating(Database& database) : database_(database) { database_.validating(1); }
    Validating(const Validating&) = delete;
    Validating& operator=(const Validating&) = delete;
    ~Validating() { database_.validating(-1); }

   private:
    Database& database_;
  };
  /// Lets an exit wait a moment while a replica is tidied: where all programs end soon, nobody else
  /// would ever come to the end of it.
  class Tidying {
   public:
    explicit Tidying(Database& database) : database_(database) { database_.tidying(1); }
    Tidying(const Tidying&) = delete;
    Tidying& operator=(const Tidying&) = delete;
    ~Tidying() { database_.tidying(-1); }

   private:
    Database& database_;
  };
  /// True while log files are folded: a replicator reads none of them meanwhile.
  bool folding() const { return folding_; }
  /// How often files were folded: who stands in a log file goes there anew when it changed.
  std::uint64_t folds() const { return folds_; }

 private:
  enum class Role { none, shipping, watching, left };  // left: for good, nobody has it open
  /// What the engine's thread is told.
  enum News : unsigned { kStart = 1, kCapture = 2, kRole = 4, kLog = 8, kShip = 16, kEnd = 32 };
  struct Registry;
  class Flushing;
  class Borrowed;
  using ToldOf = std::tuple<Generation, std::uint64_t, bool>;  // the last sequence, going on
  using Self = std::shared_ptr<Database>;
  struct Pieces;
  static asio::awaitable<void> capture_piece(Database& self, Pieces& pieces);
  static asio::awaitable<void> capture_loop(Self self);
  static asio::awaitable<void> role_loop(Self self);
  void set_role_error(const std::string& error);
  static asio::awaitable<void> read_wakes(Self self);
  bool others_first();
  asio::awaitable<void> leave_role_to_others();
  static asio::awaitable<void> bound_outbox(Self self);
  std::optional<std::chrono::steady_clock::time_point> patience_ends();
  static asio::awaitable<void> look_for_untold();
  bool is_changed_wal();
  void tell(unsigned news) noexcept;
  void told();
  bool tell_news();
  asio::awaitable<void> take_turn();
  asio::awaitable<void> prepare_role();
  asio::awaitable<std::optional<std::uint64_t>> hold_role();
  bool has_more_than(std::uint64_t shipped);
  std::unique_ptr<Flushing> begin_flush(std::chrono::steady_clock::time_point deadline);
  /// Waits `until` nothing is left for this process to do: true. `patient`: what a store refuses,
  /// and at that time all, is given up. `last`: the program ends, so another process is to have the
  /// role.
  bool finish_flush(std::chrono::steady_clock::time_point until, bool patient,
                    std::chrono::steady_clock::time_point deadline, bool last);
  /// Of one that is retired: true when it has left the role.
  bool wait_left(std::chrono::steady_clock::time_point until);
  void let_go() noexcept;
  bool step_aside(std::chrono::steady_clock::time_point deadline);
  bool has_stepped_aside() const;
  void take_part();
  bool leave_role();
  void set_deaf(bool deaf);
  static std::chrono::nanoseconds linger();
  asio::awaitable<void> watch_role();
  void note_outbox_error(const std::string& error);
  bool open_outbox();
  std::optional<std::uint64_t> outbox_size();
  std::uint64_t fold_outbox(const std::vector<OutboxUse>& uses);
  void open_wal();
  capture::Outcome capture_at_hook(
      Mapping& own, const MapMore& map_more, bool must, std::chrono::nanoseconds patience,
      std::optional<capture::CheckpointProgress> checkpoint_begins) noexcept;
  capture::Outcome capture_from(capture::Source source, std::chrono::nanoseconds wait, bool must);
  void tell_moved(const capture::FileIdentity& opened);
  void set_moved(bool moved) noexcept;
  void notice_moved() noexcept;
  Mapping* current_mapping() const;
  bool look();
  bool has_left_wal() const;
  /// False at the deadline, and when the generation ends.
  bool wait_shipped(const capture::Tail& target, std::chrono::steady_clock::time_point deadline);
  /// False: the engine has no threads yet, and does what it is told when it has.
  bool start() noexcept;
  bool drained() const;
  bool close_if_unused(std::uint64_t opened);
  bool is_outdated(const DatabaseSettings& settings) const;
  void retire() noexcept;
  void forget_retired();
  struct Look {
    capture::WalIndexHeader header;
    capture::CheckpointProgress progress;
  };
  std::optional<Look> look_at_wal_index();
  bool is_checkpoint_over();
  bool publish(std::uint64_t tickets = 0) noexcept;
  void bound_saved_pages() noexcept;
  bool lock_patiently(std::unique_lock<std::timed_mutex>& lock,
                      std::chrono::nanoseconds wait) const;
  bool has_waited_out() const;
  void note_waited_out(std::chrono::nanoseconds waited);
  void tidy_up_snapshot();
  bool paused();
  bool can_refuse() const;
  bool learn_behind() noexcept;
  std::uint64_t sequence_of(std::uint64_t ticket, std::chrono::steady_clock::time_point deadline,
                            const CaptureNow& capture);
  bool wait_with_others(std::uint64_t ticket, bool any,
                        std::chrono::steady_clock::time_point deadline);
  void ship_at_once(std::uint64_t sequence);
  bool reached(std::uint64_t sequence, bool any, std::chrono::steady_clock::time_point deadline);
  std::optional<ReplicaNote> noted(std::size_t replica) const;
  bool is_ahead(std::uint64_t sequence);
  void look_at_notes() noexcept;
  bool is_behind(bool any);
  bool caught_up(bool any, const Durability::Behind& behind);
  void fall_behind(std::uint64_t ticket, SyncTerms terms, std::chrono::milliseconds limit);
  void mark_behind(Time since) noexcept;
  std::optional<Time> missing_since(std::size_t number,
                                    const std::vector<std::uint64_t>& files) const noexcept;
  std::string replica_json(std::size_t number, bool moved, bool seen,
                           std::optional<Time> since) const;
  Role role() const;
  void set_role(Role role);
  void change_role(Role role);
  void validating(int more);
  void tidying(int more);

  static std::atomic<Registry*> the_registry_;

  const Host& host_;
  DatabaseSettings settings_;
  std::uint64_t epoch_;

  // Order of locking: capture, then mapping; status on its own.
  std::timed_mutex capture_mutex_;
  std::optional<capture::Outbox> outbox_;      // capture_mutex_
  std::optional<capture::Capturer> capturer_;  // capture_mutex_
  UniqueFd wal_fd_;                            // capture_mutex_
  ino_t wal_inode_ = 0;                        // capture_mutex_
  std::string outbox_error_;                   // capture_mutex_
  ToldOf told_of_;                             // capture_mutex_; what who ships was last told of
  std::optional<std::uint64_t> told_moved_;    // capture_mutex_; the inode last told of
  std::mutex mapping_mutex_;
  std::condition_variable readers_gone_;
  std::vector<Mapping*> mappings_;  // mapping_mutex_
  // is_changed_wal(): iChange and mxFrame.
  std::optional<std::pair<std::uint32_t, std::uint32_t>> seen_wal_;
  std::atomic<bool> session_new_{true};
  std::atomic<bool> recovered_{false};  // the wal-index was, and not captured from since

  std::atomic<bool> dirty_{false};
  std::atomic<bool> soon_{false};
  std::atomic<int> checkpointing_{0};     // looks that are left, where nothing tells of its end
  std::atomic<std::uint64_t> frames_{0};  // captured by this process
  std::atomic<std::uint32_t> own_change_{0};
  std::atomic<std::int64_t> own_commit_time_{0};
  std::atomic<std::int64_t> first_commit_time_{0};
  std::atomic<std::uint64_t> connections_{0};
  std::atomic<std::uint64_t> opened_{0};  // connections, ever
  std::atomic<int> flushing_{0};
  std::atomic<int> ending_{0};
  std::atomic<bool> leaving_{false};  // the role is for others, since the program ends
  Durability durability_;
  std::mutex looking_at_notes_;
  std::atomic<std::uint64_t> hurry_{0};    // is to be shipped at once, up to this sequence
  std::atomic<bool> behind_marked_{true};  // in the outbox; also when that is not known
  std::atomic<bool> learned_{false};       // … and this process has looked
  std::atomic<std::uint64_t> in_place_{0};
  std::atomic<std::uint64_t> room_for_pages_{0};
  std::atomic<bool> making_in_place_{false};  // by this process
  std::atomic<bool> copy_next_{false};
  std::string why_copies_;
  std::atomic<bool> alive_{false};
  std::atomic<bool> moved_{false};  // all that is open here is
  std::atomic<bool> blind_{false};  // cannot_see(), and nothing was mapped since
  std::atomic<bool> started_{false};
  // The beginning of a generation that was announced last when this one's long wait was spent.
  static constexpr std::int64_t kNotWaited = -1;
  std::atomic<std::int64_t> waited_out_{kNotWaited};
  std::atomic<std::uint64_t> known_log_{0};    // the log file last seen as the current one
  std::atomic<std::uint64_t> outbox_lock_{0};  // its inode; 0: none was opened yet

  mutable std::mutex status_mutex_;
  std::condition_variable status_changed_;
  std::optional<capture::Tail> tail_;          // status_mutex_
  std::vector<ReplicaStatus> replica_status_;  // status_mutex_, as settings_.replicas
  std::vector<std::uint64_t> kept_from_;       // status_mutex_, as settings_.replicas
  std::string capture_error_;                  // status_mutex_
  std::string obstacle_;                       // status_mutex_
  bool refusable_ = true;                      // status_mutex_
  std::string role_error_;                     // status_mutex_
  std::string role_error_said_;                // engine's thread
  int failed_to_prepare_ = 0;                  // engine's thread; in a row, for want of a client
  Role role_ = Role::none;                     // status_mutex_
  bool deaf_ = false;                          // status_mutex_; to others, while it ships
  Time role_since_{};                          // status_mutex_
  int validations_ = 0;                        // status_mutex_
  int tidied_ = 0;                             // status_mutex_: replicas

  std::atomic<unsigned> news_{0};
  HandlerRoom news_room_;

  // The engine's thread only.
  std::vector<std::unique_ptr<Replicator>> replicators_;
  Signal fold_signal_;
  bool folding_ = false;
  std::uint64_t folds_ = 0;
  Signal capture_signal_;
  Signal role_signal_;
  std::function<void()> stop_watching_;
  std::atomic<bool> closed_{false};
  bool role_over_ = false;                          // or closed
  bool role_wanted_ = false;                        // by a process that can do more with it
  std::chrono::steady_clock::time_point poked_at_;  // by another process
  std::uint64_t told_of_others_ = 0;                // … when the outbox ended with this batch
  std::chrono::steady_clock::duration turn_ = std::chrono::seconds(10);  // until others may have it
  bool gives_way_ = false;  // for that others may reach the stores
  std::chrono::steady_clock::duration patience_ = std::chrono::seconds(10);  // … until it does
};

}  // namespace sqlstream
