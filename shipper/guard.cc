#include "shipper/guard.h"

#include <algorithm>
#include <utility>

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

asio::awaitable<std::optional<LastWrite>> find_last_write(Store& store) {
  Newest newest;
  Generation its;
  const auto generations = co_await replica::list_generations(store);
  for (const Generation generation : generations) {
    const auto snapshots = co_await replica::list_snapshots(store, generation);
    const auto segments = co_await replica::list_segments(store, generation);
    auto last = newest_of(generation, snapshots, segments);
    if (last.key.empty() || last.created < newest.created) continue;
    newest = std::move(last);
    its = generation;
  }
  if (newest.key.empty()) co_return std::nullopt;
  const auto metadata = co_await replica::read_metadata(store, newest.key);
  if (!metadata) co_return std::nullopt;
  co_return LastWrite{newest.created, its, *metadata};
}

asio::awaitable<std::optional<LastWrite>> guard_replica(Store& store,
                                                        const ReplicaSettings& settings,
                                                        const Writer& self) {
  const auto last = co_await find_last_write(store);
  if (!last) co_return last;
  const auto other = another_writer(*last, self, now(), settings.retention);
  if (!other) co_return last;
  const std::string sentence = "the replica " + store.url() + ' ' + *other;
  if (settings.exclusive) {
    throw Error("not replicating: " + sentence +
                "; give this database a replica of its own, or take exclusive out if it takes over "
                "from that one");
  }
  log::warn(sentence + "; if that one still runs, give this database a replica of its own",
            {{"db", self.database}, {"replica", settings.name}});
  co_return last;
}

}  // namespace sqlstream
