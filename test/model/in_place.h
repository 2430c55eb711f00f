#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "capture/old_pages.h"

/// The protocol of a snapshot in place as a state machine of its own: a database of two pages, a
/// process that copies, processes that commit and checkpoint, and a program without the shim. (Only
/// one of them can checkpoint at a time, and none remembers anything of it: so one stands for all.)
/// doc/internals.md, "Snapshots in place", describes what is modelled here. What an announcement
/// covers is decided by the product's own capture::Announcement. Captures are made in one step, and
/// what continues a generation is known: these are the other model's.
namespace sqlstream::model::in_place {

/// What can be seeded: each takes one rule away.
enum class Bug : std::uint8_t {
  none,
  page_not_saved,                ///< a checkpoint only announces itself
  saved_behind_the_write,        ///< … saves what it has written
  byte_before_image,             ///< … says so before the image is there
  looked_before_read,            ///< the copier looks for a saved page, then reads the file
  cursor_before_read,            ///< the copier says that a page is copied before it is
  wal_not_overlaid,              ///< what was in the WAL alone is not read from the outbox
  no_capture_before_checkpoint,  ///< CKPT_START
  earlier_attempts_ignored,      ///< at CKPT_START, what was attempted or done before
  last_attempt_ignored,          ///< at the end, the same
  other_wal_ignored,             ///< no look when the record of another WAL is appended
  dead_checkpointer_ignored,     ///< at CKPT_START, an announcement that is open
  open_at_the_end_ignored,       ///< at the end, the same
  broken_off_is_ended,           ///< a checkpoint that failed closes its announcement
  failed_save_ignored,           ///< what cannot be saved is overwritten all the same
  count
};

using Byte = std::uint8_t;
inline constexpr int kPages = 2;  // commit c writes page (c - 1) modulo 2, one frame
// Who has a lock, and who made a step.
inline constexpr Byte kCopier = 0;
inline constexpr Byte kShim = 1;
inline constexpr Byte kStranger = 2;
inline constexpr Byte kNobody = 0xff;

/// For each page the commit that wrote its image.
using Image = std::array<Byte, kPages>;

/// The WAL and its index: frames 1..frames are the commits after `base`.
struct Wal {
  Byte salt = 1;
  Byte base = 0;
  Byte frames = 0;
  Byte done = 0;       ///< nBackfill
  Byte attempted = 0;  ///< nBackfillAttempted
};

/// Where a WAL was read up to: the outbox's last record, and a snapshot's position.
struct Position {
  Byte salt = 1;
  Byte base = 0;
  Byte frame = 0;
  Byte commit() const { return base + frame; }
};

struct Announced {
  Byte salt = 0;
  Byte frame = 0;
  Byte open = 0;
};

/// The file, as those see it who have it open.
struct OldPages {
  Byte linked = 0;
  Byte copied = 0;  ///< so many pages
  Byte locked = 0;
  Announced announced;
  Image saved{};
  Image image{};
};

/// What a checkpoint did last.
enum class Step : Byte { idle, locked, attempted, captured, writing, written };

/// The one that is under way.
struct Checkpoint {
  Step step = Step::idle;
  Byte to = 0;     ///< frame
  Byte page = 0;   ///< the next
  Byte saved = 0;  ///< of its image and its byte, how many are there
  Byte sees = 0;   ///< a snapshot in the making
  Byte saves = 0;
  Announced tried;  ///< by others, when the lock was obtained
  Announced mine;
};

/// What the copier does next.
enum class Copy : Byte {
  begin,
  announce,
  capture,
  look,
  decide,
  read,
  find,
  advance,
  over,
  given_up
};

struct Copier {
  Copy step = Copy::begin;
  Byte page = 0;  ///< the next
  Byte read = 0;  ///< of the file
  Position at;
  Image image{};
  // while it proves
  Position known;  ///< the outbox's last record
  Byte named = 0;  ///< by `control`
  Wal seen;
};

struct State {
  Image file{};
  Wal wal;
  Byte locked_by = kNobody;  ///< SQLite's checkpoint lock: whose checkpoint it is
  Position record;           ///< the outbox's last
  Byte alive = 1;            ///< the generation
  Byte named = 0;            ///< the snapshot, in `control`
  OldPages old;
  Checkpoint checkpoint;
  Copier copier;
  // what happened so far
  Byte commits = 0;
  Byte checkpoints = 0;
  Byte kills = 0;
  Byte strangers = 0;
  Byte failures = 0;
  Byte excused = 0;  ///< something happened for which the snapshot may be given up
};
static_assert(std::has_unique_object_representations_v<State>);

struct Successor {
  const char* what;
  Byte process;
  bool environment;  ///< not a step that somebody takes by himself
  State state;
};

/// How often things may happen in one history.
struct Limits {
  const char* name;
  Byte commits;
  Byte checkpoints;
  Byte kills;
  Byte strangers;  ///< commits and checkpoints of the program without the shim
  Byte failures;   ///< of a save, or of a checkpoint
};

/// All steps that are possible in one state. Deterministic.
class Model {
 public:
  using Bug = in_place::Bug;
  using Limits = in_place::Limits;
  using State = in_place::State;

  Model(Bug bug, const Limits& limits) : bug_(bug), limits_(limits) {}

  static State first() { return {}; }

  static std::uint64_t fingerprint(const State& state);
  /// Valid until the next call.
  const std::vector<Successor>& successors(const State& state);
  /// What is wrong with the state; null: nothing. `quiet`: nobody has a step left.
  const char* violation(const State& state, bool quiet) const;

 private:
  bool has(Bug bug) const { return bug_ == bug; }
  /// Adds what `change` makes of the state, unless it stays as it was.
  template <class Change>
  void add(const char* what, Byte process, bool environment, Change&& change) {
    successors_.push_back({what, process, environment, *from_});
    State& next = successors_.back().state;
    change(next);
    if (std::memcmp(&next, from_, sizeof next) == 0) successors_.pop_back();
  }

  void commits(Byte who);
  void begin_checkpoint(Byte who);
  void checkpoint();
  void page_steps();
  void accidents();
  void copier();

  void capture(State& s) const;
  void append(State& s, const Position& record) const;
  void begin_saving(State& s) const;
  void end_checkpoint(State& s) const;
  void decide(State& s) const;
  void find(State& s) const;

  Bug bug_;
  Limits limits_;
  const State* from_ = nullptr;
  std::vector<Successor> successors_;
};

}  // namespace sqlstream::model::in_place
