#include "restore/survey.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "base/error.h"
#include "base/log.h"
#include "format/names.h"

namespace sqlstream {
namespace {

using replica::right_before;
using replica::Segment;
using replica::Snapshot;

std::string describe_damage(const Store& store, const std::string& key, const Error& error) {
  return "cannot restore, object " + store.url() + "/" + key + " is damaged (" + error.what() + ")";
}

asio::awaitable<std::optional<Metadata>> metadata_of(Store& store, std::string key) {
  try {
    co_return co_await replica::read_metadata(store, key);
  } catch (const StoreError&) {
    throw;
  } catch (const DamagedMetadata& error) {
    throw DamagedMetadata(describe_damage(store, key, error));
  } catch (const Error& error) {
    throw Error(describe_damage(store, key, error));
  }
}

asio::awaitable<Time> time_of(Store& store, Generation generation, const Snapshot& snapshot) {
  const auto metadata =
      co_await metadata_of(store, names::snapshot_key(generation, snapshot.index));
  co_return object_time(snapshot.created, metadata);
}

asio::awaitable<std::optional<Metadata>> metadata_of(Store& store, Generation generation,
                                                     const Segment& segment) {
  const std::string key = replica::key_of(generation, segment);
  std::string damage;
  try {
    auto metadata = co_await metadata_of(store, key);
    if (segment.level == 0 || (metadata && metadata->kind == Metadata::Kind::compacted &&
                               metadata->wal_size == segment.end - segment.position.offset)) {
      co_return metadata;
    }
    damage = "object " + store.url() + "/" + key + " is damaged (it is not what its name says)";
  } catch (const StoreError&) {
    throw;
  } catch (const Error& error) {
    if (segment.level == 0) throw;
    damage = error.what();
  }
  throw CompactedUnusable(damage);
}

asio::awaitable<Time> time_of(Store& store, Generation generation, const Segment& segment) {
  const auto metadata = co_await metadata_of(store, generation, segment);
  co_return object_time(segment.created, metadata);
}

struct Holdings {
  std::vector<Snapshot> snapshots;
  std::vector<Segment> compacted;
  Position listed{};              // behind these, and not before the first snapshot:
  std::vector<Segment> segments;  // from there on

  // The one with the latest data but for the last `skipped` segments, if any.
  const Segment* last(std::size_t skipped = 0) const {
    if (skipped < segments.size()) return &segments[segments.size() - 1 - skipped];
    const auto furthest = std::max_element(compacted.begin(), compacted.end(), ends_earlier);
    return furthest == compacted.end() ? nullptr : &*furthest;
  }
  static bool ends_earlier(const Segment& a, const Segment& b) {
    return std::pair(a.position.index, a.end) < std::pair(b.position.index, b.end);
  }
};

constexpr std::uint64_t kEnd = std::numeric_limits<std::uint64_t>::max();  // behind every offset
constexpr int kListings = 3;  // of what is deleted meanwhile; deletions are minutes apart
constexpr std::uint64_t kFirstLook = 256 << 10;  // of the WAL; some ten small segments

asio::awaitable<Holdings> list_holdings(Store& store, Generation generation, bool use_compacted) {
  Holdings holdings;
  holdings.snapshots = co_await replica::list_snapshots(store, generation);
  if (holdings.snapshots.empty()) co_return holdings;
  holdings.listed = {holdings.snapshots.front().index, 0};
  if (use_compacted) {
    holdings.compacted = co_await replica::list_compacted(store, generation);
    std::erase_if(holdings.compacted,
                  [&](const Segment& s) { return s.position < holdings.listed; });
    if (const Segment* last = holdings.last()) {
      holdings.listed = {last->position.index, last->end};
    }
  }
  holdings.segments =
      co_await replica::list_segments(store, generation, right_before(holdings.listed));
  co_return holdings;
}

// The last of the segments that a compacted one stands for, if it is there. Looked for from the end
// on: there may be a hundred thousand.
asio::awaitable<std::optional<Segment>> last_inside(Store& store, Generation generation,
                                                    const Segment& compacted) {
  const Position end{compacted.position.index, compacted.end};
  const std::uint64_t size = end.offset - compacted.position.offset;
  for (std::uint64_t length = kFirstLook;; length *= 16) {
    length = std::min(length, size);
    const Position from{end.index, end.offset - length};
    const auto segments =
        co_await replica::list_segments(store, generation, right_before(from), end);
    if (!segments.empty()) co_return segments.back();
    if (length == size) co_return std::nullopt;
  }
}

// When the store got the last of what a compacted segment stands for. It was itself put later,
// perhaps when the next generation had begun.
asio::awaitable<Time> stored_time(Store& store, Generation generation, const Segment& segment) {
  if (segment.level == 0) co_return segment.created;
  if (const auto last = co_await last_inside(store, generation, segment)) co_return last->created;
  // Somebody deleted them: it was not before the commit, whose time is all that is left.
  const Time committed = co_await time_of(store, generation, segment);
  co_return std::min(segment.created, committed);
}

struct LastCommit {
  Time time{};
  bool noted = false;                // by sqlstream; else it is the store's time
  std::uint64_t sequence = 0;        // of its batch in the outbox; 0: not known
  const Segment* segment = nullptr;  // that ends with it; null: a snapshot does
};

// What was broken off in the middle of a transaction is not restored.
asio::awaitable<LastCommit> last_commit(Store& store, Generation generation,
                                        const Holdings& holdings) {
  const Snapshot& snapshot = holdings.snapshots.back();
  auto metadata = co_await metadata_of(store, names::snapshot_key(generation, snapshot.index));
  LastCommit last;
  const auto consider = [&](Time stored, const Segment* segment) {
    last = {object_time(stored, metadata), metadata.has_value(),
            metadata ? metadata->last_sequence : 0, segment};
  };
  consider(snapshot.created, nullptr);
  std::size_t skipped = 0;
  while (const Segment* segment = holdings.last(skipped++)) {
    metadata = co_await metadata_of(store, generation, *segment);
    if (segment->level == 0 && metadata && !metadata->ends_on_commit) continue;
    if (object_time(segment->created, metadata) >= last.time) consider(segment->created, segment);
    break;
  }
  co_return last;
}

// By the commits' times. `last`: set to the segment that ends with the last one, if any does.
asio::awaitable<GenerationSpan> commit_span(Store& store, Generation generation,
                                            const Holdings& holdings, const Segment*& last) {
  const Snapshot& first = holdings.snapshots.front();
  const auto begun = co_await metadata_of(store, names::snapshot_key(generation, first.index));
  const LastCommit end = co_await last_commit(store, generation, holdings);
  GenerationSpan span{generation, object_time(first.created, begun), end.time};
  if (end.noted) span.committed = end.time;
  span.sequence = end.sequence;
  if (begun) span.after = begun->after;
  last = end.segment;
  co_return span;
}

asio::awaitable<GenerationSpan> span_or_advice(Store& store, Generation generation,
                                               const Holdings& holdings, bool alone) {
  const Segment* last = nullptr;
  try {
    co_return co_await commit_span(store, generation, holdings, last);
  } catch (const StoreError&) {
    throw;
  } catch (const CompactedUnusable&) {
    throw;
  } catch (const Error& error) {
    if (alone) throw;
    throw Error(std::string(error.what()) +
                ": which moments are in that generation is not known; if the one that is wanted is "
                "in another, choose that with -generation");
  }
}

// By the store's times. What else tells which of several is newer costs two or three small reads
// for each.
asio::awaitable<GenerationSpan> stored_span(Store& store, Generation generation,
                                            const Holdings& holdings, bool alone) {
  GenerationSpan span{generation};
  const Segment* last = holdings.last();
  try {
    if (!alone) span = co_await commit_span(store, generation, holdings, last);
  } catch (const StoreError& error) {
    if (error.kind() != StoreError::Kind::not_found) throw;
  } catch (const Error&) {
    // It is said when that is what is restored.
  }
  span.earliest = holdings.snapshots.front().created;
  span.latest = holdings.snapshots.back().created;
  if (last != nullptr) {
    span.latest = std::max(span.latest, co_await stored_time(store, generation, *last));
  }
  co_return span;
}

void warn_of(const GenerationSpan& other, std::span<const GenerationSpan> spans, Generation chosen,
             const Store& store) {
  const auto span = std::find_if(spans.begin(), spans.end(), [&](const GenerationSpan& one) {
    return one.generation == chosen;
  });
  log::warn("generation " + chosen.str() + " is taken for the newest, since its last object was " +
                "stored last, at " + format_rfc3339(span->latest) + ", but what generation " +
                other.generation.str() + " ends with was committed later, at " +
                format_rfc3339(*other.committed) + " and not " + format_rfc3339(*span->committed) +
                ": if a clock was wrong, or the replica is a copy, choose with -generation",
            {{"replica", store.url()}});
}

// The last segment that was stored in a generation without a snapshot, if it has any. That is no
// backup, but what was one: a generation begins with its snapshot.
asio::awaitable<std::optional<Segment>> last_stranded(Store& store, Generation generation) {
  const auto segments = co_await replica::list_segments(store, generation);
  if (segments.empty()) co_return std::nullopt;
  co_return *std::max_element(
      segments.begin(), segments.end(),
      [](const Segment& a, const Segment& b) { return a.created < b.created; });
}

struct Stranded {
  Generation generation;
  Time last{};  // the store's time

  std::string describe(const Store& store) const {
    return "generation " + generation.str() + " in " + store.url() + " has WAL segments up to " +
           format_rfc3339(last) +
           ", but no snapshot they could be applied to: somebody deleted it, or a lifecycle rule "
           "of the bucket did";
  }
};

void warn_of(const Stranded& stranded, std::span<const GenerationSpan> spans, Generation chosen,
             std::optional<Time> moment, const Store& store) {
  const auto span = std::find_if(spans.begin(), spans.end(), [&](const GenerationSpan& one) {
    return one.generation == chosen;
  });
  if (std::min(stranded.last, moment.value_or(stranded.last)) <= span->latest) return;
  log::warn(stranded.describe(store) + "; what is restored is older", {{"replica", store.url()}});
}

asio::awaitable<void> refuse_empty(Store& store) {
  ListQuery query;
  query.prefix = "ltx/";
  query.limit = 1;
  if (!(co_await store.list(std::move(query))).objects.empty()) {
    throw Error("the replica at " + store.url() +
                " was written by Litestream 0.5 or newer, whose format sqlstream does not read; "
                "restore it with litestream");
  }
  throw NoBackup("no matching backups found at " + store.url());
}

struct Chosen {
  Generation generation;
  Holdings holdings;
  std::vector<GenerationEnd> after;  // what it was begun behind; not where there is no other one
};

// `among_replicas`: it is to be compared with other replicas' ones.
asio::awaitable<Chosen> choose_generation(Store& store, const RestoreOptions& options,
                                          bool among_replicas) {
  const auto generations = co_await replica::list_generations(store);
  if (generations.empty()) co_await refuse_empty(store);

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
    chosen.holdings = co_await list_holdings(store, wanted, options.compacted);
    if (chosen.holdings.snapshots.empty()) {
      throw NothingToRestore("no matching backups found: generation " + wanted.str() + " in " +
                             store.url() + " has no snapshot; choose another one");
    }
    co_return chosen;
  }

  const bool alone = generations.size() == 1 && !among_replicas;
  std::vector<GenerationSpan> spans;
  std::optional<Stranded> stranded;  // the one that was written last
  for (const Generation generation : generations) {
    Holdings found = co_await list_holdings(store, generation, options.compacted);
    if (found.snapshots.empty()) {
      const auto segment = co_await last_stranded(store, generation);
      if (segment && (!stranded || segment->created > stranded->last)) {
        stranded = Stranded{generation, segment->created};
      }
      continue;
    }
    if (options.timestamp) {
      try {
        spans.push_back(co_await span_or_advice(store, generation, found, generations.size() == 1));
      } catch (const DamagedMetadata&) {
        if (!alone) throw;
        spans.push_back({generation, Time::min(), Time::max()});  // there is no other one
      }
    } else {
      spans.push_back(co_await stored_span(store, generation, found, alone));
    }
    chosen.holdings = std::move(found);
  }
  if (spans.empty() && stranded) {
    throw Error("cannot restore, " + stranded->describe(store) +
                "; put it back, or give the database an empty path to begin anew");
  }
  if (spans.empty()) co_await refuse_empty(store);
  if (options.timestamp) {
    chosen.generation = generation_at(spans, *options.timestamp);
  } else {
    chosen.generation = newest_generation(spans);
    const auto other = contradicting(spans, chosen.generation);
    if (other && !options.quiet) warn_of(*other, spans, chosen.generation, store);
  }
  if (stranded && !options.quiet)
    warn_of(*stranded, spans, chosen.generation, options.timestamp, store);
  chosen.after = ancestors(spans, chosen.generation);
  // Only the last one's listing was kept.
  if (chosen.generation != spans.back().generation) {
    chosen.holdings = co_await list_holdings(store, chosen.generation, options.compacted);
  }
  co_return chosen;
}

// Leaves the snapshots by `moment`, and returns the last one's time. Nothing is restored from those
// whose metadata is damaged; what they hold is in the WAL behind the one before, too.
asio::awaitable<Time> limit_to_time(Store& store, Chosen& chosen, Time moment, bool quiet) {
  auto& snapshots = chosen.holdings.snapshots;
  PrefixSearch search(snapshots.size());
  Time reached{};
  std::string damage;
  while (const auto probe = search.next()) {
    const Snapshot snapshot = snapshots[*probe];
    try {
      const Time time = co_await time_of(store, chosen.generation, snapshot);
      search.tell(time <= moment);
      if (time <= moment) reached = time;
    } catch (const DamagedMetadata& error) {
      damage = error.what();
      snapshots.erase(snapshots.begin() + static_cast<std::ptrdiff_t>(*probe));
      search.drop();
      if (!quiet) {
        log::warn("the metadata of the object " + store.url() + '/' +
                      names::snapshot_key(chosen.generation, snapshot.index) +
                      " is damaged: nothing is restored from it",
                  {{"replica", store.url()}});
      }
    }
  }
  if (snapshots.empty()) throw Error(damage);
  if (search.length() == 0) {
    const Time first = co_await time_of(store, chosen.generation, snapshots.front());
    const std::string earliest =
        ": the earliest moment that can be restored is " + format_rfc3339(first);
    if (!damage.empty()) throw Error(damage + earliest);
    throw NothingToRestore(
        "no matching backups found: cannot restore to " + format_rfc3339(moment) +
        ", which is before the first snapshot of generation " + chosen.generation.str() + earliest);
  }
  snapshots.resize(search.length());
  co_return reached;
}

// How many segments in a row were committed by `moment`. `reached`: when the commit in front of
// them was, then that of the last that counts.
//
// When one was committed whose metadata is damaged is not known, but not before those in front of
// it, nor after those behind it. The search takes it for later; so where it ends further in front,
// at one that can be read and is later, that is proven. Where it ends right in front of the damaged
// one, all before count, and it counts if the one behind it does, or if the store had it by then,
// which is after the commit. Not for the very moment of the commit before: that is what is advised
// where the damaged one is in the way, and the store's times may be whole seconds, or another
// clock's.
//
// Neither choice gives a state later than `moment`, or keeps one back: if it counts, the replay
// refuses it and says how far a restore can go; if not, nothing behind it could be replayed anyhow.
asio::awaitable<std::size_t> count_until(Store& store, Generation generation,
                                         const std::vector<Segment>& segments, Time moment,
                                         Time& reached, bool quiet) {
  PrefixSearch search(segments.size());
  std::optional<std::size_t> damaged;  // the first one that was met
  while (const auto probe = search.next()) {
    bool counts = false;
    try {
      const Time time = co_await time_of(store, generation, segments[*probe]);
      counts = time <= moment;
      if (counts) reached = time;
    } catch (const DamagedMetadata&) {
      damaged = *probe;
    }
    search.tell(counts);
  }
  const std::size_t count = search.length();
  if (damaged != count) co_return count;
  if (reached < moment) {
    Time latest = segments[count].created;
    try {
      if (count + 1 < segments.size()) {
        latest = std::min(latest, co_await time_of(store, generation, segments[count + 1]));
      }
    } catch (const DamagedMetadata&) {
    }
    if (latest <= moment) co_return count + 1;
  }
  if (!quiet) {
    log::warn(
        "the metadata of the object " + store.url() + '/' +
            replica::key_of(generation, segments[count]) +
            " is damaged, so when it was committed is not known: it is taken for later than " +
            format_rfc3339(moment) + ", and what is restored ends before it",
        {{"replica", store.url()}});
  }
  co_return count;
}

std::string hex(std::uint32_t index) {
  char text[12];
  std::snprintf(text, sizeof text, "%08x", index);
  return text;
}

// The position it ends with.
Position limit_to_index(Chosen& chosen, std::uint32_t index) {
  Holdings& holdings = chosen.holdings;
  const std::uint32_t first = holdings.snapshots.front().index;
  std::uint32_t last = holdings.snapshots.back().index;
  if (const Segment* segment = holdings.last()) last = std::max(last, segment->position.index);
  if (index > last) {
    throw Error("cannot restore to index " + hex(index) + ", generation " +
                chosen.generation.str() + " ends with index " + hex(last));
  }
  std::erase_if(holdings.snapshots, [&](const Snapshot& s) { return s.index > index; });
  if (holdings.snapshots.empty()) {
    throw Error("cannot restore to index " + hex(index) +
                ", which is before the first snapshot of generation " + chosen.generation.str() +
                ", at index " + hex(first));
  }
  return {index, kEnd};
}

void limit_to_position(Chosen& chosen, Position until) {
  Holdings& holdings = chosen.holdings;
  std::erase_if(holdings.snapshots, [&](const Snapshot& s) { return s.index > until.index; });
  if (holdings.snapshots.empty()) {
    throw NothingToRestore("no matching backups found: cannot restore to " +
                           describe_position(chosen.generation, until) +
                           ", which is before the first snapshot");
  }
}

// Where listing each gap between compacted segments costs more than listing all.
constexpr std::size_t kManyGaps = 8;

// The generation's WAL from `begin` on, of objects that begin before `until`: the fewest.
asio::awaitable<std::vector<Segment>> segments_between(Store& store, const Chosen& chosen,
                                                       Position begin, Position until) {
  const Holdings& holdings = chosen.holdings;
  const auto folded = fewest_covering(holdings.compacted, begin, until);
  struct Gap {
    Position begin, end;
  };
  std::vector<Gap> gaps;
  Position at = begin;
  for (const Segment& segment : folded) {
    if (segment.position != at) gaps.push_back({at, segment.position});
    at = {segment.position.index, segment.end};
  }
  // Compacted segments that reach beyond `until` cannot be used, nor is what they cover listed.
  const Position listed = std::min(holdings.listed, until);
  if (at < listed) gaps.push_back({at, listed});
  if (gaps.size() > kManyGaps) gaps = {{begin, gaps.back().end}};

  std::vector<Segment> result = folded;
  const auto covered = [&](const Segment& segment) {
    return std::any_of(folded.begin(), folded.end(), [&](const Segment& f) {
      return segment.position >= f.position && segment.position < Position{f.position.index, f.end};
    });
  };
  for (const Gap& gap : gaps) {
    const auto plain =
        co_await replica::list_segments(store, chosen.generation, right_before(gap.begin), gap.end);
    std::copy_if(plain.begin(), plain.end(), std::back_inserter(result),
                 [&](const Segment& segment) { return !covered(segment); });
  }
  std::copy_if(holdings.segments.begin(), holdings.segments.end(), std::back_inserter(result),
               [&](const Segment& s) { return s.position >= begin && s.position < until; });
  std::sort(result.begin(), result.end(),
            [](const Segment& a, const Segment& b) { return a.position < b.position; });
  co_return result;
}

// `reached`: the snapshot's time.
asio::awaitable<void> limit_to_time(Store& store, RestorePlan& plan, Time moment, Time reached,
                                    bool quiet) {
  const std::size_t count =
      co_await count_until(store, plan.generation, plan.segments, moment, reached, quiet);
  if (count == plan.segments.size()) co_return;
  const Segment beyond = plan.segments[count];
  plan.segments.resize(count);
  if (beyond.level == 0) co_return;
  // A part of what is folded into it is not beyond.
  auto inside =
      co_await replica::list_segments(store, plan.generation, right_before(beyond.position),
                                      Position{beyond.position.index, beyond.end});
  inside.resize(co_await count_until(store, plan.generation, inside, moment, reached, quiet));
  plan.segments.insert(plan.segments.end(), inside.begin(), inside.end());
}

asio::awaitable<RestoreTarget> find_as_listed(Store& store, const RestoreOptions& options) {
  const Chosen chosen = co_await choose_generation(store, options, true);
  const LastCommit last = co_await last_commit(store, chosen.generation, chosen.holdings);
  co_return RestoreTarget{chosen.generation, last.time, last.sequence, chosen.after};
}

}  // namespace

asio::awaitable<Reach> reach_before(Store& store, const RestorePlan& plan, std::size_t end) {
  for (std::size_t i = end; i-- > 0;) {
    const Segment& segment = plan.segments[i];
    std::optional<Metadata> metadata;
    try {
      metadata = co_await metadata_of(store, replica::key_of(plan.generation, segment));
    } catch (const DamagedMetadata&) {
      continue;  // nor that far
    }
    if (metadata && !metadata->ends_on_commit) continue;
    Position position = segment.position;
    if (metadata) position.offset += metadata->wal_size;
    co_return Reach{plan.generation, position, object_time(segment.created, metadata)};
  }
  const Time time = co_await time_of(store, plan.generation, plan.snapshot);
  co_return Reach{plan.generation, {plan.snapshot.index, 0}, time};
}

asio::awaitable<std::optional<std::uint32_t>> size_behind(Store& store, Generation generation,
                                                          const Segment& compacted) {
  const auto last = co_await last_inside(store, generation, compacted);
  if (!last) co_return std::nullopt;
  const auto metadata = co_await metadata_of(store, replica::key_of(generation, *last));
  if (!metadata || last->position.offset + metadata->wal_size != compacted.end) {
    co_return std::nullopt;
  }
  co_return metadata->database_size;
}

bool Attempts::again(const Error& error, RestoreOptions& options) {
  const auto* refused = dynamic_cast<const StoreError*>(&error);
  const bool gone = refused != nullptr && refused->kind() == StoreError::Kind::not_found;
  if (gone && listings_ < kListings) {
    ++listings_;
    return true;
  }
  if (!options.compacted) return false;
  if (!gone && dynamic_cast<const CompactedUnusable*>(&error) == nullptr) return false;
  options.compacted = false;
  listings_ = 1;
  return true;
}

asio::awaitable<RestoreTarget> find_target(Store& store, RestoreOptions options) {
  Attempts attempts;
  while (true) {
    try {
      co_return co_await find_as_listed(store, options);
    } catch (const Error& error) {
      if (!attempts.again(error, options)) throw;
    }
  }
}

asio::awaitable<RestorePlan> survey(Store& store, const RestoreOptions& options) {
  Chosen chosen = co_await choose_generation(store, options, false);
  Holdings& holdings = chosen.holdings;
  Position until{std::numeric_limits<std::uint32_t>::max(), kEnd};
  if (options.index) until = limit_to_index(chosen, *options.index);
  if (options.until) {
    limit_to_position(chosen, *options.until);
    until = std::min(until, *options.until);
  }
  Time reached{};
  if (options.timestamp) {
    reached = co_await limit_to_time(store, chosen, *options.timestamp, options.quiet);
  }

  RestorePlan plan{chosen.generation, holdings.snapshots.back(), {}};
  plan.segments = co_await segments_between(store, chosen, Position{plan.snapshot.index, 0}, until);
  if (options.timestamp) {
    co_await limit_to_time(store, plan, *options.timestamp, reached, options.quiet);
  }

  if (const auto gap = first_gap(plan)) {
    const std::string missing = "cannot restore, a WAL segment is missing in " + store.url() +
                                " before " + replica::key_of(plan.generation, plan.segments[*gap]);
    // A bucket that is copied while it is written may have compacted ones of segments it has not.
    if (is_behind_compacted(plan, *gap)) throw CompactedUnusable(missing);
    const Reach reach = co_await reach_before(store, plan, *gap);
    throw Error(missing + ": " + describe_reach(reach));
  }
  co_return plan;
}

}  // namespace sqlstream
