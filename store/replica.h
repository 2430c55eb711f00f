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
};

struct Segment {
  Position position;
  std::uint64_t size = 0;  ///< stored (compressed) bytes
  Time created{};          ///< the store's time
};

/// Ascending by id (which means nothing of their age).
asio::awaitable<std::vector<Generation>> list_generations(Store& store);
/// Ascending by index.
asio::awaitable<std::vector<Snapshot>> list_snapshots(Store& store, Generation generation);
/// Ascending by position; only those behind `after` when given.
asio::awaitable<std::vector<Segment>> list_segments(Store& store, Generation generation,
                                                    std::optional<Position> after = {});
/// Reads the metadata in front of an object with one small range GET; empty for objects of others.
asio::awaitable<std::optional<Metadata>> read_metadata(Store& store, std::string key);

}  // namespace sqlstream::replica
