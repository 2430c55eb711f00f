#include "format/names.h"

#include "base/error.h"
#include "format/hex.h"

namespace sqlstream::names {
namespace {

constexpr std::size_t kGenerationDigits = 16;
constexpr std::size_t kNumberDigits = 8;  // of an index and of an offset
constexpr std::string_view kSnapshots = "snapshots/";
constexpr std::string_view kSnapshotSuffix = ".snapshot.lz4";
constexpr std::string_view kWal = "wal/";
constexpr std::string_view kCompacted = "compacted/";
constexpr std::string_view kSegmentSuffix = ".wal.lz4";

void check_offset(std::uint64_t offset) {
  if (offset <= 0xffffffffu) return;
  throw Error("cannot name a WAL segment at offset " + std::to_string(offset) +
              ": an index ends below 4 GiB");
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

std::optional<std::uint64_t> take_hex(std::string_view& text, std::size_t digits) {
  const auto value = from_hex(text.substr(0, digits), digits);
  if (value) text.remove_prefix(digits);
  return value;
}

// Takes "generations/<gen>/".
std::optional<Generation> take_generation(std::string_view& key) {
  if (!take(key, kGenerations)) return std::nullopt;
  const auto id = take_hex(key, kGenerationDigits);
  if (!id || !take(key, "/")) return std::nullopt;
  return Generation{*id};
}

}  // namespace

std::string generation_prefix(Generation generation) {
  return std::string(kGenerations) + generation.str() + '/';
}

std::string snapshots_prefix(Generation generation) {
  return generation_prefix(generation).append(kSnapshots);
}

std::string wal_prefix(Generation generation) {
  return generation_prefix(generation).append(kWal);
}

std::string compacted_prefix(Generation generation) {
  return generation_prefix(generation).append(kCompacted);
}

std::string snapshot_key(Generation generation, std::uint32_t index) {
  return snapshots_prefix(generation).append(to_hex(index, kNumberDigits)).append(kSnapshotSuffix);
}

std::string segment_key(Generation generation, Position position) {
  check_offset(position.offset);
  return wal_prefix(generation)
      .append(to_hex(position.index, kNumberDigits))
      .append("_")
      .append(to_hex(position.offset, kNumberDigits))
      .append(kSegmentSuffix);
}

std::string compacted_key(Generation generation, Position begin, std::uint64_t end,
                          unsigned level) {
  check_offset(end);
  return compacted_prefix(generation)
      .append(to_hex(begin.index, kNumberDigits))
      .append("_")
      .append(to_hex(begin.offset, kNumberDigits))
      .append("_")
      .append(to_hex(end, kNumberDigits))
      .append("_")
      .append(to_hex(level, 1))
      .append(kSegmentSuffix);
}

std::optional<Generation> parse_generation(std::string_view key) {
  return take_generation(key);
}

std::optional<SnapshotName> parse_snapshot_key(std::string_view key) {
  const auto generation = take_generation(key);
  if (!generation || !take(key, kSnapshots)) return std::nullopt;
  const auto index = take_hex(key, kNumberDigits);
  if (!index || key != kSnapshotSuffix) return std::nullopt;
  return SnapshotName{*generation, static_cast<std::uint32_t>(*index)};
}

std::optional<SegmentName> parse_segment_key(std::string_view key) {
  const auto generation = take_generation(key);
  if (!generation || !take(key, kWal)) return std::nullopt;
  const auto index = take_hex(key, kNumberDigits);
  if (!index || !take(key, "_")) return std::nullopt;
  const auto offset = take_hex(key, kNumberDigits);
  if (!offset || key != kSegmentSuffix) return std::nullopt;
  return SegmentName{*generation, {static_cast<std::uint32_t>(*index), *offset}};
}

std::optional<CompactedName> parse_compacted_key(std::string_view key) {
  const auto generation = take_generation(key);
  if (!generation || !take(key, kCompacted)) return std::nullopt;
  const auto index = take_hex(key, kNumberDigits);
  if (!index || !take(key, "_")) return std::nullopt;
  const auto begin = take_hex(key, kNumberDigits);
  if (!begin || !take(key, "_")) return std::nullopt;
  const auto end = take_hex(key, kNumberDigits);
  if (!end || !take(key, "_")) return std::nullopt;
  const auto level = take_hex(key, 1);
  if (!level || key != kSegmentSuffix || *level == 0 || *end <= *begin) return std::nullopt;
  return CompactedName{*generation,
                       {static_cast<std::uint32_t>(*index), *begin},
                       *end,
                       static_cast<unsigned>(*level)};
}

}  // namespace sqlstream::names
