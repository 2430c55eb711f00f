#include "restore/survey.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "base/error.h"
#include "format/names.h"

namespace sqlstream {
namespace {

using replica::Segment;
using replica::Snapshot;

asio::awaitable<std::optional<Metadata>> metadata_of(Store& store, std::string key) {
  try {
    co_return co_await replica::read_metadata(store, key);
  } catch (const StoreError&) {
    throw;
  } catch (const Error& error) {
    throw Error("cannot restore, object " + store.url() + "/" + key + " is damaged (" +
                error.what() + ")");
  }
}

asio::awaitable<Time> time_of(Store& store, Generation generation, const Snapshot& snapshot) {
  const auto metadata =
      co_await metadata_of(store, names::snapshot_key(generation, snapshot.index));
  co_return object_time(snapshot.created, metadata);
}

asio::awaitable<Time> time_of(Store& store, Generation generation, const Segment& segment) {
  const auto metadata =
      co_await metadata_of(store, names::segment_key(generation, segment.position));
  co_return object_time(segment.created, metadata);
}

struct Holdings {
  std::vector<Snapshot> snapshots;
  std::vector<Segment> segments;  // none before the first snapshot
};

// Behind every segment of the indexes before `index`.
std::optional<Position> before_index(std::uint32_t index) {
  if (index == 0) return std::nullopt;
  return Position{index - 1, std::numeric_limits<std::uint32_t>::max()};
}

asio::awaitable<Holdings> list_holdings(Store& store, Generation generation) {
  Holdings holdings;
  holdings.snapshots = co_await replica::list_snapshots(store, generation);
  if (!holdings.snapshots.empty()) {
    const auto after = before_index(holdings.snapshots.front().index);
    holdings.segments = co_await replica::list_segments(store, generation, after);
  }
  co_return holdings;
}

// By the store's times: those of the objects themselves cost two reads for each generation.
GenerationSpan stored_span(Generation generation, const Holdings& holdings) {
  GenerationSpan span{generation, holdings.snapshots.front().created,
                      holdings.snapshots.back().created};
  if (!holdings.segments.empty()) {
    span.latest = std::max(span.latest, holdings.segments.back().created);
  }
  return span;
}

asio::awaitable<GenerationSpan> commit_span(Store& store, Generation generation,
                                            const Holdings& holdings) {
  GenerationSpan span{generation};
  span.earliest = co_await time_of(store, generation, holdings.snapshots.front());
  span.latest = co_await time_of(store, generation, holdings.snapshots.back());
  if (!holdings.segments.empty()) {
    const Time last = co_await time_of(store, generation, holdings.segments.back());
    span.latest = std::max(span.latest, last);
  }
  co_return span;
}

NothingToRestore no_backups(const Store& store) {
  return NothingToRestore("no matching backups found at " + store.url());
}

struct Chosen {
  Generation generation;
  Holdings holdings;
};

asio::awaitable<Chosen> choose_generation(Store& store, const RestoreOptions& options) {
  const auto generations = co_await replica::list_generations(store);
  if (generations.empty()) throw no_backups(store);

  Chosen chosen;
  if (options.generation) {
    const Generation wanted = *options.generation;
    if (std::find(generations.begin(), generations.end(), wanted) == generations.end()) {
      std::string known;
      for (std::size_t i = 0; i < generations.size() && i < 8; ++i) {
        known += (i == 0 ? "" : ", ") + generations[i].str();
      }
      if (generations.size() > 8) known += ", …";
      throw NothingToRestore("no matching backups found: generation " + wanted.str() +
                             " is not in " + store.url() + ", which has " + known);
    }
    chosen.generation = wanted;
    chosen.holdings = co_await list_holdings(store, wanted);
    if (chosen.holdings.snapshots.empty()) {
      throw NothingToRestore("no matching backups found: generation " + wanted.str() + " in " +
                             store.url() + " has no snapshot; choose another one");
    }
    co_return chosen;
  }

  std::vector<GenerationSpan> spans;
  for (const Generation generation : generations) {
    Holdings found = co_await list_holdings(store, generation);
    if (found.snapshots.empty()) continue;
    if (options.timestamp) {
      spans.push_back(co_await commit_span(store, generation, found));
    } else {
      spans.push_back(stored_span(generation, found));
    }
    chosen.holdings = std::move(found);
  }
  if (spans.empty()) throw no_backups(store);
  chosen.generation =
      options.timestamp ? generation_at(spans, *options.timestamp) : newest_generation(spans);
  // Only the last one's listing was kept.
  if (chosen.generation != spans.back().generation) {
    chosen.holdings = co_await list_holdings(store, chosen.generation);
  }
  co_return chosen;
}

template <class Item>
asio::awaitable<std::size_t> count_until(Store& store, Generation generation,
                                         const std::vector<Item>& items, Time moment) {
  PrefixSearch search(items.size());
  while (const auto probe = search.next()) {
    const Time time = co_await time_of(store, generation, items[*probe]);
    search.tell(time <= moment);
  }
  co_return search.length();
}

std::string hex(std::uint32_t index) {
  char text[12];
  std::snprintf(text, sizeof text, "%08x", index);
  return text;
}

void limit_to_index(Chosen& chosen, std::uint32_t index) {
  Holdings& holdings = chosen.holdings;
  const std::uint32_t first = holdings.snapshots.front().index;
  std::uint32_t last = holdings.snapshots.back().index;
  if (!holdings.segments.empty()) last = std::max(last, holdings.segments.back().position.index);
  if (index > last) {
    throw Error("cannot restore to index " + hex(index) + ", generation " +
                chosen.generation.str() + " ends with index " + hex(last));
  }
  std::erase_if(holdings.snapshots, [&](const Snapshot& s) { return s.index > index; });
  std::erase_if(holdings.segments, [&](const Segment& s) { return s.position.index > index; });
  if (holdings.snapshots.empty()) {
    throw Error("cannot restore to index " + hex(index) +
                ", which is before the first snapshot of generation " + chosen.generation.str() +
                ", at index " + hex(first));
  }
}

void limit_to_position(Chosen& chosen, Position until) {
  Holdings& holdings = chosen.holdings;
  std::erase_if(holdings.snapshots, [&](const Snapshot& s) { return s.index > until.index; });
  std::erase_if(holdings.segments, [&](const Segment& s) { return s.position >= until; });
  if (holdings.snapshots.empty()) {
    throw NothingToRestore("no matching backups found: cannot restore to " +
                           describe_position(chosen.generation, until) +
                           ", which is before the first snapshot");
  }
}

}  // namespace

asio::awaitable<Reach> reach_before(Store& store, const RestorePlan& plan, std::size_t end) {
  for (std::size_t i = end; i-- > 0;) {
    const Segment& segment = plan.segments[i];
    const auto metadata =
        co_await metadata_of(store, names::segment_key(plan.generation, segment.position));
    if (metadata && !metadata->ends_on_commit) continue;
    Position position = segment.position;
    if (metadata) position.offset += metadata->wal_size;
    co_return Reach{plan.generation, position, object_time(segment.created, metadata)};
  }
  const Time time = co_await time_of(store, plan.generation, plan.snapshot);
  co_return Reach{plan.generation, {plan.snapshot.index, 0}, time};
}

asio::awaitable<RestoreTarget> find_target(Store& store, RestoreOptions options) {
  const Chosen chosen = co_await choose_generation(store, options);
  const GenerationSpan span = co_await commit_span(store, chosen.generation, chosen.holdings);
  co_return RestoreTarget{chosen.generation, span.latest};
}

asio::awaitable<RestorePlan> survey(Store& store, const RestoreOptions& options) {
  Chosen chosen = co_await choose_generation(store, options);
  Holdings& holdings = chosen.holdings;
  if (options.index) limit_to_index(chosen, *options.index);
  if (options.until) limit_to_position(chosen, *options.until);
  if (options.timestamp) {
    const std::size_t count =
        co_await count_until(store, chosen.generation, holdings.snapshots, *options.timestamp);
    if (count == 0) {
      const Time first = co_await time_of(store, chosen.generation, holdings.snapshots.front());
      throw NothingToRestore(
          "no matching backups found: cannot restore to " + format_rfc3339(*options.timestamp) +
          ", which is before the first snapshot of generation " + chosen.generation.str() +
          ": the earliest moment that can be restored is " + format_rfc3339(first));
    }
    holdings.snapshots.resize(count);
  }

  RestorePlan plan{chosen.generation, holdings.snapshots.back(), {}};
  const auto first = std::find_if(
      holdings.segments.begin(), holdings.segments.end(),
      [&](const Segment& segment) { return segment.position.index >= plan.snapshot.index; });
  holdings.segments.erase(holdings.segments.begin(), first);
  plan.segments = std::move(holdings.segments);
  if (options.timestamp) {
    const std::size_t count =
        co_await count_until(store, chosen.generation, plan.segments, *options.timestamp);
    plan.segments.resize(count);
  }

  if (const auto gap = first_gap(plan)) {
    const Reach reach = co_await reach_before(store, plan, *gap);
    throw Error("cannot restore, a WAL segment is missing in " + store.url() + " before " +
                names::segment_key(plan.generation, plan.segments[*gap].position) + ": " +
                describe_reach(reach));
  }
  co_return plan;
}

}  // namespace sqlstream
