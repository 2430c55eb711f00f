#pragma once

#include "restore/plan.h"
#include "restore/restore.h"
#include "store/store.h"

namespace sqlstream {

/// A compacted segment is damaged or gone, or may be why one behind it does not follow. What it
/// stands for is there as it was shipped.
class CompactedUnusable : public Error {
 public:
  using Error::Error;
};

/// How often a restore, or what it asks of a replica, is begun anew.
class Attempts {
 public:
  /// Whether it is worth it behind `error`. What was listed may be gone when it is read: retention
  /// deletes, and so does compaction what it folded further. Clears options.compacted where it is
  /// to do without.
  bool again(const Error& error, RestoreOptions& options);

 private:
  int listings_ = 1;
};

/// Finds out by listing, and by reading metadata where a moment was asked for, what a restore has
/// to read. Throws Error when there is nothing for these options, CompactedUnusable where it may do
/// without options.compacted. Uses options.generation, index, timestamp, until and compacted.
asio::awaitable<RestorePlan> survey(Store& store, const RestoreOptions& options);

/// How far a restore by `plan` can go without its segments from `end` on.
asio::awaitable<Reach> reach_before(Store& store, const RestorePlan& plan, std::size_t end);

/// The pages that the database has behind a compacted segment, as the last of the segments says
/// that it stands for. Empty where that one is not there, or not sqlstream's.
asio::awaitable<std::optional<std::uint32_t>> size_behind(Store& store, Generation generation,
                                                          const replica::Segment& compacted);

}  // namespace sqlstream
