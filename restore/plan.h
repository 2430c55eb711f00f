#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "format/metadata.h"
#include "format/position.h"
#include "store/replica.h"

/// The decisions of a restore, as pure functions over listings and the metadata that was read.
namespace sqlstream {

/// The moments a generation can be restored to, and what tells which one is newer.
struct GenerationSpan {
  Generation generation;
  Time earliest{};                       ///< of its first snapshot
  Time latest{};                         ///< of its last commit: the store's time, or its own
  std::optional<Time> committed{};       ///< its own; empty: not known
  std::uint64_t sequence = 0;            ///< of its last batch in the outbox; 0: not known
  std::optional<GenerationEnd> after{};  ///< what the replica ended with when it began
};

/// The commit time an object counts for: its own where sqlstream wrote it, else the store's.
Time object_time(Time stored, const std::optional<Metadata>& metadata);

/// The generation with the latest data: one that no other one was begun behind, whatever the times
/// say; of several the latest. Precondition: not empty.
Generation newest_generation(std::span<const GenerationSpan> spans);

/// A generation that was committed to later than `newest`, which was chosen by other times, and
/// nothing else tells which one is newer. Empty: there is none.
std::optional<GenerationSpan> contradicting(std::span<const GenerationSpan> spans,
                                            Generation newest);

/// What `generation` was begun behind, and what that was, as far as `spans` tell.
std::vector<GenerationEnd> ancestors(std::span<const GenerationSpan> spans, Generation generation);

/// The generation that a moment belongs to: the one that covers it, else the one that ended last
/// before it. Throws NothingToRestore when the moment is before all of them, Error when several
/// cover it. Precondition: not empty.
Generation generation_at(std::span<const GenerationSpan> spans, Time moment);

/// Binary search for how many of `count` ascending items, from the first, satisfy a predicate that
/// holds for a prefix of them. The caller evaluates the predicate where next() says.
class PrefixSearch {
 public:
  explicit PrefixSearch(std::size_t count) : high_(count) {}
  std::optional<std::size_t> next() const {
    if (low_ == high_) return std::nullopt;
    return low_ + (high_ - low_) / 2;
  }
  void tell(bool holds) {
    const std::size_t middle = low_ + (high_ - low_) / 2;
    if (holds) {
      low_ = middle + 1;
    } else {
      high_ = middle;
    }
  }
  void drop() { --high_; }  ///< the item at next() is taken out, and is no item any more
  std::size_t length() const { return low_; }  ///< the answer, once next() is empty

 private:
  std::size_t low_ = 0;
  std::size_t high_;
};

/// Of compacted segments (ascending by position), those that cover most with fewest: from `begin`
/// on and up to `until`, ascending, not overlapping.
std::vector<replica::Segment> fewest_covering(std::span<const replica::Segment> compacted,
                                              Position begin, Position until);

/// What a restore reads: one snapshot, then the segments in this order, compacted ones among them.
struct RestorePlan {
  Generation generation;
  replica::Snapshot snapshot;
  std::vector<replica::Segment> segments;
};

/// Whether segment `at`, or one before it, is compacted: then that may be why it does not follow.
bool is_behind_compacted(const RestorePlan& plan, std::size_t at);

/// The first segment that cannot follow what is before it, as far as the names tell: an index that
/// does not start at offset 0, or that skips one. Gaps inside an index show only when decoding.
std::optional<std::size_t> first_gap(const RestorePlan& plan);

/// How far a restore can go when something behind it is missing or damaged.
struct Reach {
  Generation generation;
  Position position;
  Time time{};
};

/// "a restore can go to … with -generation … -timestamp …": the end of an error's sentence.
std::string describe_reach(const Reach& reach);

/// "<generation>/<index %08x>:<offset %08x>"
std::string describe_position(Generation generation, Position position);

}  // namespace sqlstream
