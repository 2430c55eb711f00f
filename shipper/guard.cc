#include "shipper/guard.h"

#include <algorithm>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "base/log.h"
#include "format/names.h"

namespace sqlstream {
namespace {

bool differs(const std::string& there, const std::string& here) {
  return !there.empty() && there != here;
}

std::string describe(const Writer& writer) {
  return "host " + (writer.host.empty() ? "unknown" : writer.host) + " from " +
         (writer.database.empty() ? "an unknown path" : writer.database);
}

}  // namespace

bool is_neighbours(const Metadata& metadata, const Writer& self) {
  return metadata.host == self.host && differs(metadata.database, self.database);
}

std::optional<std::string> another_writer(const LastWrite& last, const Writer& self, Time now,
                                          std::chrono::nanoseconds retention) {
  const Metadata& metadata = last.metadata;
  if (!differs(metadata.host, self.host) && !differs(metadata.database, self.database)) {
    return std::nullopt;
  }
  const Time time = std::max(last.time, metadata.last_commit);
  const bool old = retention.count() > 0 && now - time > retention;
  if (old && !is_neighbours(metadata, self)) return std::nullopt;
  return "was last written at " + format_rfc3339(std::chrono::floor<std::chrono::seconds>(time)) +
         " by " + describe({metadata.host, metadata.database}) + ", and this is " + describe(self);
}

Newest newest_of(Generation generation, std::span<const replica::Snapshot> snapshots,
                 std::span<const replica::Segment> segments) {
  Newest newest;
  if (!snapshots.empty()) {
    newest = {snapshots.back().created, names::snapshot_key(generation, snapshots.back().index)};
  }
  if (!segments.empty() && segments.back().created >= newest.created) {
    newest = {segments.back().created, names::segment_key(generation, segments.back().position)};
  }
  return newest;
}

asio::awaitable<Writes> find_last_write(Store& store) {
  struct Object {
    Newest newest;
    Generation generation;
  };
  std::vector<Object> objects;
  const auto generations = co_await replica::list_generations(store);
  for (const Generation generation : generations) {
    const auto snapshots = co_await replica::list_snapshots(store, generation);
    const auto segments = co_await replica::list_segments(store, generation);
    objects.push_back({newest_of(generation, snapshots, {}), generation});
    objects.push_back({newest_of(generation, {}, segments), generation});
  }
  std::erase_if(objects, [](const Object& object) { return object.newest.key.empty(); });
  std::stable_sort(objects.begin(), objects.end(), [](const Object& a, const Object& b) {
    return a.newest.created < b.newest.created;
  });
  Writes writes;
  for (; !objects.empty(); objects.pop_back()) {
    const auto& [newest, generation] = objects.back();
    try {
      const auto metadata = co_await replica::read_metadata(store, newest.key);
      if (metadata) writes.last = LastWrite{newest.created, generation, *metadata};
      break;
    } catch (const DamagedMetadata&) {
      if (writes.damaged.empty()) writes.damaged = newest.key;
    }
  }
  co_return writes;
}

std::uint32_t names_of_others(std::span<const Generation> generations, Generation own) {
  std::string names;
  for (const Generation generation : generations) {
    if (generation != own) names += generation.str();
  }
  return static_cast<std::uint32_t>(XXH3_64bits(names.data(), names.size())) | 1U;
}

asio::awaitable<std::optional<LastWrite>> guard_replica(Store& store,
                                                        const ReplicaSettings& settings,
                                                        const Writer& self) {
  const auto [last, damaged] = co_await find_last_write(store);
  const auto other = last ? another_writer(*last, self, now(), settings.retention) : std::nullopt;
  const log::Fields fields{{"db", self.database}, {"replica", settings.name}};
  // Whoever writes there and is seen by it alone is not seen: it would be an error for good, and
  // what is shipped now has a generation of its own.
  if (!damaged.empty() && !(other && settings.exclusive)) {
    log::warn("the metadata of the object " + store.url() + '/' + damaged +
                  " is damaged: who wrote it is not known, and a restore of its generation reaches "
                  "only what is before it",
              fields);
  }
  if (!other) co_return last;
  const std::string sentence = "the replica " + store.url() + ' ' + *other;
  if (settings.exclusive) {
    throw AnotherWriter("not replicating: " + sentence +
                            "; give this database a replica of its own, or take exclusive out if "
                            "it takes over from that one",
                        describe({last->metadata.host, last->metadata.database}));
  }
  log::warn(sentence + "; if that one still runs, give this database a replica of its own", fields);
  co_return last;
}

}  // namespace sqlstream
