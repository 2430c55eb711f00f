#pragma once

#include <optional>
#include <string>
#include <vector>

#include "format/metadata.h"
#include "format/position.h"
#include "store/store.h"

/// What a replica holds, by listing. Keys that do not parse are ignored.
namespace sqlstream::replica {

struct Snapshot {
  std::uint32_t index = 0;
  std::uint64_t size = 0;  ///< stored (compressed) bytes
  Time created{};          ///< the store's time
  Time stored{};           ///< the same by its own clock, see ObjectInfo
};

/// A piece of a generation's WAL: as it was shipped, or several of these folded into one.
struct Segment {
  Position position;
  std::uint64_t size = 0;  ///< stored (compressed) bytes
  Time created{};          ///< the store's time
  unsigned level = 0;      ///< of compaction; 0: as it was shipped
  std::uint64_t end = 0;   ///< the offset behind it; 0: its name does not tell
  Time stored{};           ///< as of a snapshot
};

std::string key_of(Generation generation, const Segment& segment);

/// Ascending by id (which means nothing of their age).
asio::awaitable<std::vector<Generation>> list_generations(Store& store);
/// Ascending by index.
asio::awaitable<std::vector<Snapshot>> list_snapshots(Store& store, Generation generation);
/// Behind every segment that begins before `position`, for list_segments(); empty: there is none.
std::optional<Position> right_before(Position position);
/// As they were shipped, ascending by position; only those behind `after` and before `before` when
/// given.
asio::awaitable<std::vector<Segment>> list_segments(Store& store, Generation generation,
                                                    std::optional<Position> after = {},
                                                    std::optional<Position> before = {});
/// The compacted ones, ascending by position, then by end.
asio::awaitable<std::vector<Segment>> list_compacted(Store& store, Generation generation);
/// Reads the metadata in front of an object with one small range GET; empty for objects of others.
asio::awaitable<std::optional<Metadata>> read_metadata(Store& store, std::string key);

}  // namespace sqlstream::replica
