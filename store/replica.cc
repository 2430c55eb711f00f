#include "store/replica.h"

#include <algorithm>

#include "format/names.h"

namespace sqlstream::replica {
namespace {

// One request's answer of this size holds any metadata frame we write with room to spare.
constexpr std::uint64_t kMetadataHead = 1024;
constexpr std::uint64_t kLargestMetadata = 64 * 1024;
constexpr std::size_t kPage = 1000;  // as many as S3 gives at once

}  // namespace

asio::awaitable<std::vector<Generation>> list_generations(Store& store) {
  ListQuery query;
  query.prefix = names::kGenerations;
  query.folders = true;
  const Listing listing = co_await store.list(std::move(query));
  std::vector<Generation> generations;
  for (const std::string& folder : listing.folders) {
    const auto generation = names::parse_generation(folder);
    if (generation && names::generation_prefix(*generation) == folder)
      generations.push_back(*generation);
  }
  std::sort(generations.begin(), generations.end());
  // A service may name a folder on each page of its answer that has keys in it.
  generations.erase(std::unique(generations.begin(), generations.end()), generations.end());
  co_return generations;
}

asio::awaitable<std::vector<Snapshot>> list_snapshots(Store& store, Generation generation) {
  ListQuery query;
  query.prefix = names::snapshots_prefix(generation);
  const Listing listing = co_await store.list(std::move(query));
  std::vector<Snapshot> snapshots;
  for (const ObjectInfo& object : listing.objects) {
    if (const auto name = names::parse_snapshot_key(object.key))
      snapshots.push_back({name->index, object.size, object.modified, object.stored});
  }
  co_return snapshots;  // fixed-width names: key order is index order
}

std::string key_of(Generation generation, const Segment& segment) {
  return segment.level == 0
             ? names::segment_key(generation, segment.position)
             : names::compacted_key(generation, segment.position, segment.end, segment.level);
}

std::optional<Position> right_before(Position position) {
  if (position.offset > 0) return Position{position.index, position.offset - 1};
  if (position.index > 0) return Position{position.index - 1, UINT32_MAX};
  return std::nullopt;
}

asio::awaitable<std::vector<Segment>> list_segments(Store& store, Generation generation,
                                                    std::optional<Position> after,
                                                    std::optional<Position> before) {
  ListQuery query;
  query.prefix = names::wal_prefix(generation);
  if (after) query.start_after = names::segment_key(generation, *after);
  // There may be many behind `before`.
  if (before) query.limit = kPage;
  std::vector<Segment> segments;
  while (true) {
    const Listing listing = co_await store.list(query);
    for (const ObjectInfo& object : listing.objects) {
      const auto name = names::parse_segment_key(object.key);
      if (!name) continue;
      if (before && name->position >= *before) co_return segments;
      segments.push_back({name->position, object.size, object.modified, 0, 0, object.stored});
    }
    if (!before || listing.objects.size() < kPage) co_return segments;
    query.start_after = listing.objects.back().key;
  }  // fixed-width names: key order is position order
}

asio::awaitable<std::vector<Segment>> list_compacted(Store& store, Generation generation) {
  ListQuery query;
  query.prefix = names::compacted_prefix(generation);
  const Listing listing = co_await store.list(std::move(query));
  std::vector<Segment> segments;
  for (const ObjectInfo& object : listing.objects) {
    const auto name = names::parse_compacted_key(object.key);
    if (!name) continue;
    segments.push_back(
        {name->begin, object.size, object.modified, name->level, name->end, object.stored});
  }
  co_return segments;
}

asio::awaitable<std::optional<Metadata>> read_metadata(Store& store, std::string key) {
  ByteRange range;
  range.size = kMetadataHead;
  Bytes head = co_await store.get(key, range);
  std::optional<Metadata> metadata = decode_metadata(head);
  // The skippable magic in front says that there is more of it than the first answer held.
  if (!metadata && head.size() == kMetadataHead && load_be32(head.data()) == 0x502A4D18) {
    range.size = kLargestMetadata;
    head = co_await store.get(std::move(key), range);
    metadata = decode_metadata(head);
  }
  co_return metadata;
}

}  // namespace sqlstream::replica
