#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

/// How a capture in the background reads the wal-index and the WAL, while others write both piece
/// by piece: a state machine of its own, of one writer at a time, who may be killed, and one
/// reader. The other models do this in one step or two. What is a header is decided by the
/// product's own capture::read_wal_index_header().
namespace sqlstream::model::reading {

/// What can be seeded: each takes one rule away.
enum class Bug : std::uint8_t {
  none,
  one_header_copy,          ///< nor its checksum, which would show the same
  header_checksum_ignored,  ///< equal copies are enough
  uninitialised_counts,     ///< a wal-index of zeros is one of an empty WAL
  header_not_read_again,    ///< behind the frames
  count
};

using Byte = std::uint8_t;
inline constexpr int kPages = 2;
inline constexpr int kCommits = 3;  // each writes both pages, in each WAL in another order
inline constexpr int kFrames = kPages * kCommits;
inline constexpr int kHeaders = 12;

struct Header {
  Byte change = 0;
  Byte frame = 0;
  Byte salt = 0;
  Byte sum = 0;
  bool operator==(const Header&) const = default;
};

/// As it is in the wal-index.
using Words = std::array<std::uint32_t, 12>;
using Copies = std::array<Words, 2>;

struct Frame {
  Byte salt = 0;
  Byte page = 0;
  Byte image = 0;  ///< the commit that wrote it
};

enum class Op : Byte { none, recovery, commit, reset };
enum class Look : Byte { header, decide, pages, frames, again, over };

struct State {
  Copies copies{};
  Copies seen_copies{};  ///< by who reads
  std::array<Byte, kFrames> pages{};
  std::array<Frame, kFrames> wal{};
  Byte wal_salt = 1;
  Byte file = 0;  ///< the commit of both pages
  // who writes
  Op op = Op::recovery;
  Byte at = 0;
  Header now;   ///< the last that was written whole
  Header next;  ///< the one that is being written
  // who reads
  Look look = Look::header;
  Byte read = 0;   ///< so many pieces, page numbers, or halves of frames
  Byte since = 0;  ///< the last commit when it began
  Header seen;
  std::array<Byte, kFrames> seen_pages{};
  std::array<Byte, kPages> image{};
  // what happened so far
  std::array<Header, kHeaders> headers{};  ///< that were written
  Byte written = 0;
  Byte commits = 0;
  Byte visible = 0;  ///< the last commit that readers may see
  Byte resets = 0;
  Byte kills = 0;
};
static_assert(std::has_unique_object_representations_v<State>);

struct Successor {
  const char* what;
  Byte process;
  bool environment;
  State state;
};

struct Limits {
  const char* name;
  Byte commits;
  Byte resets;
  Byte kills;
};

/// All steps that are possible in one state. Deterministic.
class Model {
 public:
  using Bug = reading::Bug;
  using Limits = reading::Limits;
  using State = reading::State;

  Model(Bug bug, const Limits& limits) : bug_(bug), limits_(limits) {}

  /// A process was killed behind its first commit: the wal-index is of zeros, and the WAL is there.
  static State first();
  static std::uint64_t fingerprint(const State& state);
  /// Valid until the next call.
  const std::vector<Successor>& successors(const State& state);
  /// What is wrong with the state; null: nothing. `quiet`: nobody has a step left.
  const char* violation(const State& state, bool quiet) const;

 private:
  bool has(Bug bug) const { return bug_ == bug; }
  template <class Change>
  void add(const char* what, Byte process, bool environment, Change&& change) {
    successors_.push_back({what, process, environment, *from_});
    State& next = successors_.back().state;
    change(next);
    if (std::memcmp(&next, from_, sizeof next) == 0) successors_.pop_back();
  }

  void begin_writing();
  void write_steps();
  void read_steps();
  bool accepts(Copies copies) const;

  Bug bug_;
  Limits limits_;
  const State* from_ = nullptr;
  std::vector<Successor> successors_;
};

}  // namespace sqlstream::model::reading
