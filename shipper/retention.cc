#include "shipper/retention.h"

#include <algorithm>

#include "format/names.h"

namespace sqlstream {
namespace {

// When something was last written to a generation.
Time last_written(const GenerationObjects& objects) {
  Time last{};
  for (const auto& snapshot : objects.snapshots) last = std::max(last, snapshot.stored);
  for (const auto& segment : objects.segments) last = std::max(last, segment.stored);
  return last;
}

// The first snapshot of another generation after this one's end: from then on its end is not the
// newest state any more. Empty: its end is, or it is the current generation.
std::optional<Time> superseded(std::span<const GenerationObjects> replica,
                               const GenerationObjects& objects, Generation current) {
  if (objects.generation == current) return std::nullopt;
  const Time end = last_written(objects);
  std::optional<Time> first;
  for (const auto& other : replica) {
    if (other.generation == objects.generation) continue;
    for (const auto& snapshot : other.snapshots) {
      if (snapshot.stored > end && (!first || snapshot.stored < *first)) first = snapshot.stored;
    }
  }
  return first;
}

// The index of the first snapshot that stays.
std::uint32_t first_kept(const GenerationObjects& objects, Time cutoff) {
  std::uint32_t kept = objects.snapshots.front().index;
  for (const auto& snapshot : objects.snapshots) {
    if (snapshot.stored <= cutoff) kept = snapshot.index;
  }
  return kept;
}

// The older index first; of an index the last segment first, since Litestream refuses to restore
// anything of a generation in which an index lacks one before others.
std::vector<Position> from_each_end(std::span<const replica::Segment> segments) {
  std::vector<Position> positions;
  for (const auto& segment : segments) positions.push_back(segment.position);
  std::sort(positions.begin(), positions.end(), [](const Position& a, const Position& b) {
    return a.index != b.index ? a.index < b.index : a.offset > b.offset;
  });
  return positions;
}

}  // namespace

Time last_written(std::span<const GenerationObjects> replica) {
  Time last{};
  for (const auto& objects : replica) last = std::max(last, last_written(objects));
  return last;
}

std::vector<std::string> expired_keys(std::span<const GenerationObjects> replica,
                                      Generation current, Time cutoff) {
  std::vector<std::string> keys;
  for (const auto& objects : replica) {
    const auto over = superseded(replica, objects, current);
    const bool whole = over && *over <= cutoff;
    // Without a snapshot it is what a deletion left that did not come to its end.
    if (objects.snapshots.empty() && !whole) continue;
    const std::uint32_t kept = whole ? 0 : first_kept(objects, cutoff);
    for (const auto& snapshot : objects.snapshots) {
      if (whole || snapshot.index < kept) {
        keys.push_back(names::snapshot_key(objects.generation, snapshot.index));
      }
    }
    for (const Position position : from_each_end(objects.segments)) {
      if (whole || position.index < kept) {
        keys.push_back(names::segment_key(objects.generation, position));
      }
    }
    for (const auto& segment : objects.compacted) {
      if (whole || segment.position.index < kept) {
        keys.push_back(replica::key_of(objects.generation, segment));
      }
    }
  }
  return keys;
}

std::optional<Time> next_cutoff(std::span<const GenerationObjects> replica, Generation current,
                                Time after) {
  std::optional<Time> next;
  const auto consider = [&](Time time) {
    if (time > after && (!next || time < *next)) next = time;
  };
  for (const auto& objects : replica) {
    if (const auto over = superseded(replica, objects, current)) consider(*over);
    for (std::size_t i = 1; i < objects.snapshots.size(); ++i) {
      consider(objects.snapshots[i].stored);
    }
  }
  return next;
}

}  // namespace sqlstream
