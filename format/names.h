#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "format/position.h"

/// The replica's layout: keys relative to the replica path. Binding (Litestream 0.3's layout).
namespace sqlstream::names {

/// "generations/"
inline constexpr std::string_view kGenerations = "generations/";

/// "generations/<gen>/"
std::string generation_prefix(Generation generation);
/// "generations/<gen>/snapshots/"
std::string snapshots_prefix(Generation generation);
/// "generations/<gen>/wal/"
std::string wal_prefix(Generation generation);
/// "generations/<gen>/compacted/": what Litestream does not know of and ignores.
std::string compacted_prefix(Generation generation);
/// "generations/<gen>/snapshots/<index %08x>.snapshot.lz4"
std::string snapshot_key(Generation generation, std::uint32_t index);
/// "generations/<gen>/wal/<index %08x>_<offset %08x>.wal.lz4"; the offset fits 32 bits.
std::string segment_key(Generation generation, Position position);
/// "generations/<gen>/compacted/<index %08x>_<begin %08x>_<end %08x>_<level %x>.wal.lz4": what the
/// segments of `begin.index` from begin.offset up to `end` come to. Both fit 32 bits; level 1
/// to 15.
std::string compacted_key(Generation generation, Position begin, std::uint64_t end, unsigned level);

/// The generation of "generations/<gen>/…"; empty for any other key. Keys come from a LIST and are
/// not trusted: each parser takes exactly the form above and nothing else.
std::optional<Generation> parse_generation(std::string_view key);
struct SnapshotName {
  Generation generation;
  std::uint32_t index;
};
std::optional<SnapshotName> parse_snapshot_key(std::string_view key);
struct SegmentName {
  Generation generation;
  Position position;
};
std::optional<SegmentName> parse_segment_key(std::string_view key);
struct CompactedName {
  Generation generation;
  Position begin;
  std::uint64_t end;
  unsigned level;
};
/// Empty, too, when the range is.
std::optional<CompactedName> parse_compacted_key(std::string_view key);

}  // namespace sqlstream::names
