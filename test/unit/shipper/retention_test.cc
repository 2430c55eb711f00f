// What a replica may lose, against what a restore needs.

#include "shipper/retention.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "format/names.h"
#include "restore/plan.h"

using namespace sqlstream;

namespace {

constexpr std::uint64_t kSegmentBytes = 100;

Time at(std::int64_t second) {
  return Time(std::chrono::seconds(second));
}

replica::Snapshot snapshot(std::uint32_t index, Time time) {
  return {.index = index, .size = 1, .created = time, .stored = time};
}

replica::Segment segment(Position position, Time time) {
  return {.position = position, .size = 1, .created = time, .stored = time};
}

// A commit's state is its time; an object counts for its last commit, which is its store time too.
using Replica = std::vector<GenerationObjects>;

// What a restore to `moment` gives: the time of the last commit at or before it; -1: nothing.
std::int64_t restored(const Replica& replica, Time moment) {
  std::vector<GenerationSpan> spans;
  for (const auto& objects : replica) {
    if (objects.snapshots.empty()) continue;
    Time latest = objects.snapshots.back().created;
    if (!objects.segments.empty()) latest = std::max(latest, objects.segments.back().created);
    spans.push_back({objects.generation, objects.snapshots.front().created, latest});
  }
  std::erase_if(spans, [&](const auto& span) { return span.earliest > moment; });
  if (spans.empty()) return -1;
  const Generation generation = generation_at(spans, moment);
  const auto objects = std::find_if(replica.begin(), replica.end(),
                                    [&](const auto& one) { return one.generation == generation; });
  RestorePlan plan;
  for (const auto& snapshot : objects->snapshots) {
    if (snapshot.created <= moment) plan.snapshot = snapshot;
  }
  Time reached = plan.snapshot.created;
  for (const auto& segment : objects->segments) {
    if (segment.position.index < plan.snapshot.index || segment.created > moment) continue;
    plan.segments.push_back(segment);
    reached = segment.created;
  }
  REQUIRE_FALSE(first_gap(plan));
  return std::chrono::floor<std::chrono::seconds>(reached.time_since_epoch()).count();
}

void remove(Replica& replica, const std::set<std::string>& keys) {
  for (auto& objects : replica) {
    std::erase_if(objects.snapshots, [&](const auto& snapshot) {
      return keys.contains(names::snapshot_key(objects.generation, snapshot.index));
    });
    std::erase_if(objects.segments, [&](const auto& segment) {
      return keys.contains(names::segment_key(objects.generation, segment.position));
    });
  }
  std::erase_if(replica, [](const auto& objects) {
    return objects.snapshots.empty() && objects.segments.empty();
  });
}

// Litestream 0.3.13 wants of each index that is there, needed or not, all segments from the first
// on.
bool litestream_reads(const GenerationObjects& objects) {
  Position next{};
  for (const auto& segment : objects.segments) {
    if (segment.position.index != next.index) next = {segment.position.index, 0};
    if (segment.position != next) return false;
    next.offset += kSegmentBytes;
  }
  return true;
}

// Generations one after the other, with snapshots and segments at random moments, the last being
// the current one.
Replica random_replica(std::mt19937_64& random, std::int64_t& time) {
  Replica replica;
  const auto generations = 1 + random() % 4;
  for (std::uint64_t g = 0; g < generations; ++g) {
    GenerationObjects objects;
    objects.generation = Generation{1 + random()};
    std::uint32_t index = 0;
    const auto snapshots = 1 + random() % 4;
    for (std::uint64_t s = 0; s < snapshots; ++s) {
      time += 1 + static_cast<std::int64_t>(random() % 20);
      objects.snapshots.push_back(snapshot(index, at(time)));
      const auto segments = random() % 5;
      for (std::uint64_t k = 0; k < segments; ++k) {
        time += 1 + static_cast<std::int64_t>(random() % 10);
        objects.segments.push_back(segment({index, k * kSegmentBytes}, at(time)));
      }
      if (segments > 0 || s + 1 == snapshots) ++index;
      if (segments == 0) break;
    }
    replica.push_back(objects);
  }
  return replica;
}

}  // namespace

TEST_CASE("every moment within the retention stays restorable, whenever a deletion ends") {
  const char* given = std::getenv("SQLSTREAM_TEST_SEED");
  const std::uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::cout << "retention: SQLSTREAM_TEST_SEED=" << seed << '\n';
  int deleted = 0;
  for (std::uint64_t round = 0; round < 300; ++round) {
    INFO("round " << round);
    std::mt19937_64 random(seed + round);
    std::int64_t end = 1000;
    const Replica before = random_replica(random, end);
    const Generation current = before.back().generation;
    const Time cutoff = at(1000 + static_cast<std::int64_t>(random() % (end - 990)));
    const auto keys = expired_keys(before, current, cutoff);
    deleted += static_cast<int>(keys.size());
    const auto steps = keys.empty() ? 0 : random() % keys.size();
    for (const auto count : {steps, keys.size()}) {
      INFO(count << " of " << keys.size() << " deleted");
      Replica after = before;
      remove(after, {keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(count)});
      for (std::int64_t second = 1000; second <= end + 5; ++second) {
        if (at(second) < cutoff) continue;
        INFO("second " << second);
        REQUIRE(restored(after, at(second)) == restored(before, at(second)));
      }
      for (const auto& objects : after) CHECK(litestream_reads(objects));
      // The next deletion removes what this one left.
      remove(after, [&] {
        const auto rest = expired_keys(after, current, cutoff);
        return std::set<std::string>(rest.begin(), rest.end());
      }());
      for (const auto& objects : after) CHECK_FALSE(objects.snapshots.empty());
      CHECK(expired_keys(after, current, cutoff).empty());
      const auto next = next_cutoff(after, current, cutoff);
      if (next) {
        CHECK_FALSE(expired_keys(after, current, *next).empty());
        CHECK(expired_keys(after, current, *next - std::chrono::seconds(1)).empty());
      }
    }
  }
  CHECK(deleted > 300);
}

TEST_CASE("the newest snapshot stays, however old, and so does what the current generation has") {
  const Generation old{1};
  const Generation current{2};
  Replica replica = {{old, {snapshot(0, at(10))}, {segment({0, 0}, at(20))}}};
  CHECK(expired_keys(replica, old, at(1000)).empty());
  CHECK(expired_keys(replica, current, at(1000)).empty());
  CHECK_FALSE(next_cutoff(replica, old, at(0)));
  replica.push_back({current, {snapshot(0, at(30))}, {}});
  CHECK(expired_keys(replica, current, at(29)).empty());
  CHECK(expired_keys(replica, current, at(30)) ==
        std::vector<std::string>{names::snapshot_key(old, 0), names::segment_key(old, {0, 0})});
  CHECK(next_cutoff(replica, current, at(0)) == at(30));
}

TEST_CASE("generations that overlap, of two programs on one path, do not expire each other") {
  const Generation a{1};
  const Generation b{2};
  const Replica replica = {{a, {snapshot(0, at(10))}, {segment({0, 0}, at(100))}},
                           {b, {snapshot(0, at(50))}, {segment({0, 0}, at(90))}}};
  CHECK(expired_keys(replica, b, at(95)).empty());
  CHECK(expired_keys(replica, a, at(95)).empty());
}

TEST_CASE("what is deleted goes by the store's clock, not by the writer's, which may have jumped") {
  const Generation only{1};
  Replica replica = {{only, {snapshot(0, at(10)), snapshot(1, at(30))}, {}}};
  replica[0].snapshots[1].stored = at(20);
  replica[0].segments = {segment({1, 0}, at(40))};
  CHECK(last_written(replica) == at(40));
  CHECK(next_cutoff(replica, only, at(0)) == at(20));
  CHECK(expired_keys(replica, only, at(20)) ==
        std::vector<std::string>{names::snapshot_key(only, 0)});
}
