#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "shipper/deletion.h"
#include "shipper/engine.h"
#include "store/replica.h"

namespace sqlstream {

/// Which segments of a generation to fold into one, level by level: so many small objects that
/// fetching them would take longer than what is in them. Segments that are large as they are stay
/// alone, and no object reaches from one index into the next. Pure.
class CompactionPlan {
 public:
  static constexpr std::size_t kSegments = 32;  ///< folded into one of level 1
  static constexpr std::size_t kFanIn = 16;     ///< of a level, folded into one of the next
  static constexpr unsigned kTopLevel = 4;
  static constexpr std::uint64_t kRunBytes = 8ULL << 20;  ///< uncompressed, folded into level 1

  /// An object is there. Of each level they come in the order of their positions; `end` is known.
  void add(const replica::Segment& segment);

  /// Adjacent objects of one level that are to be folded; empty: none yet. The caller folds them,
  /// add()s the result, and pop()s them; or pops them alone when they cannot be.
  std::optional<std::vector<replica::Segment>> next() const;
  void pop() { ready_.pop_front(); }

 private:
  using Run = std::vector<replica::Segment>;
  void close(Run& run, std::size_t fewest);

  std::array<Run, kTopLevel> runs_;  // by level
  std::array<std::uint64_t, kTopLevel> bytes_{};
  std::deque<Run> ready_;
};

/// Folds what a Replicator ships. Keeps nothing on disk: what is to be done next is seen from the
/// store, with one listing when a process has shipped enough for a first fold. Lives on the
/// engine's thread.
class Compaction {
 public:
  /// Both must outlive it; `fields` go into the log.
  Compaction(Store& store, Deletion& deletion, log::Fields fields)
      : store_(store), deletion_(deletion), fields_(std::move(fields)) {}

  /// A segment is there, behind which the replica ends.
  void shipped(Generation generation, const replica::Segment& segment);
  /// Of which it folds.
  Generation generation() const { return generation_; }
  bool due() const { return plan_.next().has_value(); }
  /// Something was shipped, and what others shipped before was not looked for yet: run() does.
  bool unknown() const { return last_ && !looked_; }
  /// Does what is due; one object at most. Throws StoreError; what failed is looked for again when
  /// more was shipped. What is damaged is logged, and passed over like what cannot be folded: it is
  /// not read again. Nothing is put that is no longer `wanted`. The bytes of what was written; 0:
  /// nothing.
  asio::awaitable<std::uint64_t> run(const std::function<bool()>& wanted);

 private:
  asio::awaitable<void> look();
  asio::awaitable<std::uint64_t> fold_next(const std::function<bool()>& wanted);
  asio::awaitable<std::optional<std::uint64_t>> fold(const std::vector<replica::Segment>& inputs,
                                                     const replica::Segment& output,
                                                     const std::function<bool()>& wanted);

  Store& store_;
  Deletion& deletion_;
  const log::Fields fields_;
  Generation generation_{};
  CompactionPlan plan_;
  std::optional<replica::Segment> last_;  // shipped
  bool looked_ = false;                   // the plan knows what others shipped before
  bool looking_ = false;
  std::vector<replica::Segment> meanwhile_;  // shipped
  // Folded into others, but perhaps being read by a restore: deleted after the next fold.
  std::vector<std::string> covered_;
  std::set<std::string> passed_over_;  // what would have been made of it: a look finds it again
};

}  // namespace sqlstream
