#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

/// The protocol of capture and shipping as a state machine, small enough that all of its
/// interleavings can be looked at: two processes on one database, three commits, one reset, and at
/// most one each of: a crash, a lost answer, a wait for the capture lock that ran out, something
/// done by a program without the shim. doc/internals.md describes what is modelled here; what
/// continues a generation is decided by the product's own capture::prove_continuity().
namespace sqlstream::model {

/// What can be seeded: each takes one rule of doc/internals.md away.
enum class Bug : std::uint8_t {
  none,
  unvalidated_capture,         ///< frames are not compared with the wal-index, nor it read again
  no_capture_in_background,    ///< commits wait until SQLite comes to a hook
  no_capture_at_checkpoint,    ///< CKPT_START (in exclusive mode nothing else precedes a reset)
  no_capture_at_reset,         ///< xShmLock(4, 4)
  no_capture_at_close,         ///< xLock(EXCLUSIVE) and xShmUnmap
  unmapped_under_a_capture,    ///< the last use of a wal-index is not waited for
  role_maps_by_itself,         ///< who ships captures, though it has nothing open
  no_capture_lock,             ///< two capture at once
  torn_record_counts,          ///< half an append of a process that died is taken for a batch
  expired_wait_is_forgotten,   ///< a capture that could not be made leaves no end mark
  end_mark_ignored,            ///< a holder that is stopped is waited for again
  forked_child_keeps_locks,    ///< a child that outlives its parent
  frame_not_compared,          ///< same salts are enough (proof 1)
  undone_reset_not_found,      ///< no look at the WAL before a mark (proof 2)
  empty_reset_is_trusted,      ///< mxFrame 0 is enough (proof 3)
  commits_not_counted,         ///< a new WAL is enough (proof 4)
  file_identity_is_trusted,    ///< the file is taken for the stamped one (proof 5)
  identity_is_racy,            ///< no stamp: a write in the same tick leaves the times as they are
  identity_outlives_the_boot,  ///< times are believed after a power failure
  counter_outlives_the_index,  ///< iChange of another wal-index is believed (anchoring)
  wal_overwritten_unnoticed,   ///< a WAL with frames that were not captured is marked as followed
  no_reset_mark,               ///< a new WAL is begun without a mark
  no_clean_mark,               ///< the last close leaves no mark
  clean_mark_unlocked,         ///< it is left when others may write again
  second_reset_unstamped,      ///< a mark on a mark does not take the file's identity
  two_shippers,                ///< shipping without the role
  segment_before_snapshot,     ///< a new generation begins with a segment
  snapshot_without_newer,      ///< nothing is applied to the copy of the database file
  snapshot_without_older,      ///< only what was captured after the copy began is applied
  lost_answer_is_success,      ///< goes on behind a PUT whose answer never came
  existing_key_is_ours,        ///< "exists" is taken for an own earlier PUT
  unconditional_put,           ///< without If-None-Match
  chain_not_compared,          ///< the replica's end is believed to be of this history
  ended_is_not_compared,       ///< … that of a generation before this one
  longer_replica_is_trusted,   ///< so is one that has more than the outbox
  padding_counts,              ///< a frame that only fills a sector is taken for a commit (proof 4)
  replaced_file_goes_on,       ///< the file that is open is taken for the generation's
  unseen_write_is_stamped,     ///< a write without a wal-index ends nothing, and closes cleanly
  page_size_not_compared,      ///< nor the file's identity, which shows it, too
  damage_is_passed_over,       ///< a record that cannot be read is none
  begun_without_a_pause,       ///< generations follow each other at once
  starts_counted_alone,        ///< each process counts its own
  bound_ignored,               ///< a full outbox is appended to
  dropped_when_full,           ///< what does not fit is left out, and the generation goes on
  begun_when_full,             ///< a new generation does not wait for the store
  full_for_ever,               ///< nor begins when everything is shipped
  reset_waits_for_the_store,   ///< a new WAL is begun when all of the one before is shipped
  located_is_answered,         ///< what the replica has not got now will not come any more
  folded_over_an_end,          ///< what is in the replica, or on its way, with what is behind it
  count
};

inline constexpr int kProcesses = 2;
inline constexpr int kPages = 3;
inline constexpr int kCommits = 3;            // commit c writes the pages c - 1 and c, modulo 3
inline constexpr int kFrames = 3 * kCommits;  // with one that fills the sector
inline constexpr int kRecords = 12;
inline constexpr int kGenerations = 5;
inline constexpr int kSegments = 4;
inline constexpr int kQuickStarts = 3;  // generations that are begun without a pause

using Byte = std::uint8_t;
/// For each page the commit that wrote its image.
using Image = std::array<Byte, kPages>;
inline constexpr Byte kNoImage = 0xff;

/// Kept free of padding, so that states are compared and hashed as bytes.
struct Position {
  std::uint16_t sum = 0;
  Byte salt = 0;
  Byte frame = 0;
  Byte change = 0;
  Byte unused = 0;
};

struct Frame {
  Byte salt = 0;
  Byte page = 0;
  Byte commit = 0;
  Byte ends = 0;  ///< it is a commit frame
};

struct Wal {
  Byte exists = 0;
  Byte salt = 0;  ///< of its header; 0: none written
  Byte frames = 0;
  Byte synced = 0;  ///< frames that a power failure leaves
  std::array<Frame, kFrames> frame{};
};

struct WalIndex {
  Position header;
  Byte valid = 0;
  Byte backfill = 0;
};

struct File {
  Image image{};
  Byte version = 1;  ///< device, inode, size, times
  Byte inode = 1;
  Byte page_size = 1;
  std::array<Byte, 2> unused{};
};

enum class Kind : Byte { none, batch, reset, clean, torn, damaged };

struct Record {
  std::uint32_t chain = 0;
  Position source;
  Position previous;
  Image image{};
  Kind kind = Kind::none;
  Byte generation = 0;
  Byte sequence = 0;
  Byte identity = 0;  ///< the file's version; 0: none
  Byte inode = 0;     ///< of the file that the generation is of
  Byte folded = 0;    ///< how many batches before it it stands for, too
  Byte page_size = 0;
  std::array<Byte, 2> unused{};
};

/// An object in a replica. A snapshot is at offset 0 of no segment; last 0: there is none.
struct Object {
  std::uint32_t chain = 0;
  Image image{};
  Byte first = 0;
  Byte last = 0;
  Byte offset = 0;
  Byte length = 0;
  Byte page_size = 0;
};

struct Put {
  Object object;
  Byte generation = 0;  ///< 0: nothing is under way
  Byte snapshot = 0;
  std::array<Byte, 2> unused{};
};

struct Stored {
  Object snapshot;
  std::array<Object, kSegments> segments{};
  Byte reported = 0;  ///< the sequence that was reported as shipped
  std::array<Byte, 3> unused{};
};

/// What the application's thread does next. What no other process can tell apart is one step: so a
/// kill or another's step comes between any two of these that differ in what is on the disk.
enum class Step : Byte {
  idle,
  note_wal,
  wal_header,
  frames,
  publish,
  closed,
  last_unmap,
  last_note,
  last_delete,
  unseen_page,
  unseen_commit,
  unseen_unlock
};

enum class Ship : Byte { idle, snapshot, copying, putting };

struct Process {
  // memory of the capturer
  std::uint32_t anchor_chain = 0;
  Position anchor;
  Byte alive = 0;
  Byte open = 0;
  Byte anchored = 0;
  Byte whole = 0;  ///< the last capture before closing saw everything
  // the application
  Step step = Step::idle;
  Byte new_salt = 0;  ///< of the WAL it begins
  Byte commit = 0;    ///< the one it makes
  Byte resets = 0;    ///< it knows of some, and so keeps the wal-index's salts for a new WAL
  // a capture that has read the wal-index; it holds the capture lock
  Position seen;
  std::array<Byte, kFrames> seen_pages{};
  Byte capturing = 0;
  Byte from = 0;    ///< first frame
  Byte begins = 0;  ///< a generation
  Byte starts = 0;  ///< of generations, that it made itself
  // the shipping role
  Byte role = 0;
  Ship ship = Ship::idle;
  Byte located = 0;
  Byte end_generation = 0;
  Byte end_sequence = 0;
  Byte end_offset = 0;
  Byte copy_generation = 0;
  Byte copy_from = 0;
  Image copy{};
  Put put;
};

struct State {
  std::array<Process, kProcesses> process{};
  // on the disk
  Wal wal;
  WalIndex index;
  File file;
  std::array<Record, kRecords> records{};
  Byte ended = 0;           ///< marks of generations, a bit each
  Byte booted = 1;          ///< the last record was found true since the machine was started
  Byte note = 0;            ///< the generation that the replica's note names
  Byte note_end = 0;        ///< … its last batch in the replica
  Byte note_in_flight = 0;  ///< … and that of what was sent and not answered; 0: none
  Byte unfounded = 0;       ///< somebody was told of a commit that is not in the replica
  Byte starts = 0;          ///< of generations, with a pause for each above kQuickStarts
  Byte full = 0;            ///< the outbox was, and not all of it is shipped
  // in the store, and what may still come to it
  std::array<Stored, kGenerations> stored{};
  std::array<Put, 2> late{};
  // what happened so far
  std::array<Byte, kCommits + 1> real{};  ///< committed states, in their order
  Byte reals = 1;
  Byte generations = 0;
  Byte salts = 0;
  Byte versions = 1;
  Byte commits = 0;
  Byte resets = 0;
  Byte checkpoints = 0;
  Byte closes = 0;
  Byte kills = 0;
  Byte power_failures = 0;
  Byte lost_answers = 0;
  Byte expired_waits = 0;
  Byte strangers = 0;
  Byte replaced = 0;
  Byte damages = 0;
  Byte folds = 0;
  Byte unseen = 0;
  Byte doubts = 0;
  Byte pauses = 0;
  Byte excused = 0;    ///< something happened that may end a generation
  Byte rewritten = 0;  ///< a key was written with other content
  Byte inherited = 0;  ///< locks that a child keeps: 1 of captures, 2 of the role
  Byte settled = 0;    ///< the last batch that a full outbox needed not keep any more
  Byte unused2 = 0;
};
static_assert(std::has_unique_object_representations_v<State>);

struct Successor {
  const char* what;
  Byte process;
  bool environment;  ///< not a step that the protocol takes by itself
  State state;
};

/// How often things may happen in one history.
struct Limits {
  const char* name = "";
  Byte commits = 0;
  Byte closes = 0;
  Byte kills = 0;
  Byte power_failures = 0;
  Byte lost_answers = 0;
  Byte expired_waits = 0;
  Byte strangers = 0;
  Byte replaced = 0;                 ///< an old copy is put in the file's place
  Byte damages = 0;                  ///< a record before the last can be read no more
  Byte folds = 0;                    ///< two records become one
  Byte unseen = 0;                   ///< a commit without a wal-index in shared memory
  Byte page_sizes = 0;               ///< a program without the shim changes it
  Byte doubts = 0;                   ///< something ends the generation
  Byte bound = 0;                    ///< so many batches the outbox may keep; 0: any number
  bool padded = false;               ///< synchronous=FULL without "powersafe overwrite"
  bool exclusive = false;            ///< locking_mode=EXCLUSIVE
  bool unconditional_store = false;  ///< it knows no If-None-Match
  bool silent_store = false;         ///< it answers no PUT
  bool every_order = false;          ///< … of steps that do not hinder each other, too
};

/// All steps that are possible in one state. Deterministic: the same state gives the same
/// successors in the same order.
class Model {
 public:
  using Bug = model::Bug;
  using Limits = model::Limits;
  using State = model::State;

  Model(Bug bug, const Limits& limits) : bug_(bug), limits_(limits) {}

  static State first() { return {}; }

  /// The two processes are alike: which is which does not matter.
  static std::uint64_t fingerprint(const State& state);

  /// Valid until the next call.
  const std::vector<Successor>& successors(const State& state);
  /// What is wrong with the state; null: nothing. `quiet`: the protocol has no step left.
  const char* violation(const State& state, bool quiet) const;

 private:
  bool has(Bug bug) const { return bug_ == bug; }
  /// Adds what `change` makes of the state, unless it stays as it was.
  template <class Change>
  void add(const char* what, int process, bool environment, Change&& change) {
    successors_.push_back({what, static_cast<Byte>(process), environment, *from_});
    State& next = successors_.back().state;
    change(next);
    if (std::memcmp(&next, from_, sizeof next) == 0) successors_.pop_back();
  }

  // sqlite.cc: the application, and what befalls it
  void application(int p);
  void commit_steps(int p);
  void close_steps(int p);
  void unseen_steps(int p);
  template <class Change>
  void hook(const char* what, int p, bool skipped, Change&& change);
  void begin_steps(int p);
  static void choose_salt(State& s, Process& me);
  bool may_expire() const;
  void note_expired(State& s) const;
  void accidents(int p);
  void power_failure();
  void outside();
  void strangers();

  // model.cc: capture and the outbox
  bool lock_is_free(const State& s, int p) const;
  void refresh(State& s) const;
  bool may_begin(const State& s, const Process& me) const;
  Byte prove(const State& s, const Process& me) const;
  void begin_capture(State& s, int p) const;
  bool end_capture(State& s, int p) const;
  bool capture(State& s, int p) const;
  void note_new_wal(State& s, int p) const;
  void note_clean_close(State& s) const;

  // shipping.cc
  void shipping(int p);
  void fold_steps(int p);
  void segment_steps(int p);
  void make_room(State& s) const;
  void snapshot_steps(int p);
  void put_steps(int p);
  void late_puts();
  bool goes_on(const State& s, Byte generation) const;
  void locate(State& s, int p) const;
  bool begin_copy(State& s, int p) const;
  void end_copy(State& s, int p) const;
  bool store(State& s, const Put& put) const;
  void answered(State& s, int p, bool success) const;

  Bug bug_;
  Limits limits_;
  const State* from_ = nullptr;
  std::vector<Successor> successors_;
};

// Helpers that more than one part uses.

/// With pages of committed frames, whether it can be read or not.
bool is_batch(const Record& record);
/// The outbox's last record; null: it is empty.
const Record* tail_of(const State& s);
/// The last batch; precondition: there is one.
const Record& last_batch(const State& s);
bool alive(const State& s);
void give_up(State& s, Byte generation);
void append(State& s, Record record);
/// Batches that the outbox has to keep, since they are in no replica.
int unshipped(const State& s);
/// What a reader of the database sees.
Image source_image(const State& s);
/// Applies `over` to `image`.
void apply(Image& image, const Image& over);
std::uint16_t frame_sum(Byte salt, int number, Byte commit);

}  // namespace sqlstream::model
