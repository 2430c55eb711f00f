#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "store/replica.h"

/// What of a replica may be deleted: nothing that any moment within the retention needs. Pure.
namespace sqlstream {

/// All objects of one generation; snapshots and segments ascending, as listed.
struct GenerationObjects {
  Generation generation;
  std::vector<replica::Snapshot> snapshots;
  std::vector<replica::Segment> segments;
  std::vector<replica::Segment> compacted;
};

/// When something was last written to the replica, by the store's clock.
Time last_written(std::span<const GenerationObjects> replica);

/// The keys to delete, in an order in which each prefix of the deletions leaves every moment from
/// `cutoff` on restorable: of a generation first the snapshots, oldest first, since without its
/// snapshot a segment is no part of anything; of an index the last segment first, as stock
/// Litestream refuses a generation in which one is missing before others. Kept are, of each
/// generation, the newest snapshot at or before `cutoff` and all that is behind it; a generation
/// goes as a whole when another one had a snapshot after its end and at or before `cutoff`. Never
/// the newest snapshot, and nothing of `current`'s newest snapshot on.
///
/// Times are the store's, which are never before the commits': what is kept too long is harmless.
std::vector<std::string> expired_keys(std::span<const GenerationObjects> replica,
                                      Generation current, Time cutoff);

/// The earliest cutoff behind `after` at which more expires; empty while nothing of what is there
/// now ever does.
std::optional<Time> next_cutoff(std::span<const GenerationObjects> replica, Generation current,
                                Time after);

}  // namespace sqlstream
