#include "restore/plan.h"

#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "base/error.h"
#include "restore/restore.h"

namespace sqlstream {
namespace {

Time at(int seconds) {
  return Time(std::chrono::seconds(1'700'000'000 + seconds));
}

std::string message(const std::vector<GenerationSpan>& spans, Time moment) {
  try {
    (void)generation_at(spans, moment);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool mentions(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("without a moment, the generation with the latest data is chosen") {
  const std::vector<GenerationSpan> spans{
      {{3}, at(0), at(50)}, {{1}, at(60), at(90)}, {{2}, at(10), at(40)}};
  CHECK(newest_generation(spans) == Generation{1});
}

// As it was shipped: from where, up to which of its batches.
GenerationSpan shipped(std::uint64_t generation, int first, int last, std::uint64_t sequence,
                       std::optional<GenerationEnd> after = {}) {
  return {{generation}, at(first), at(last), at(last), sequence, after};
}

TEST_CASE("a generation that was begun behind another one's end is newer, whatever the times say") {
  std::vector<GenerationSpan> spans{shipped(1, 1000, 1010, 7), shipped(3, 0, 10, 9, {{{1}, 7}}),
                                    shipped(2, 20, 25, 4, {{{3}, 9}})};
  CHECK(newest_generation(spans) == Generation{2});
  CHECK(newest_generation(std::vector{spans[0], spans[1]}) == Generation{3});
  CHECK(generation_at(spans, at(2000)) == Generation{2});
  CHECK_FALSE(contradicting(spans, {2}));

  // It went on elsewhere.
  ++spans[0].sequence;
  CHECK(newest_generation(spans) == Generation{1});
  // How far it goes is not known.
  spans[0].sequence = 0;
  CHECK(newest_generation(spans) == Generation{1});

  // That of each is behind another one cannot be.
  spans = {shipped(1, 0, 10, 7, {{{2}, 9}}), shipped(2, 0, 20, 7, {{{1}, 9}})};
  CHECK(newest_generation(spans) == Generation{2});
}

TEST_CASE("of equal times of the store, the later commit is newer") {
  std::vector<GenerationSpan> spans{shipped(1, 0, 10, 7), shipped(2, 0, 10, 7)};
  for (const int newer : {0, 1}) {
    spans[newer].committed = at(9);
    spans[1 - newer].committed = at(8);
    CHECK(newest_generation(spans) == spans[newer].generation);
    CHECK_FALSE(contradicting(spans, spans[newer].generation));
  }
}

TEST_CASE("commits that are later than what is chosen contradict it") {
  std::vector<GenerationSpan> spans{shipped(1, 0, 10, 7), shipped(2, 0, 20, 7),
                                    shipped(3, 0, 5, 7)};
  spans[0].committed = at(30);
  spans[2].committed = at(40);
  const auto other = contradicting(spans, newest_generation(spans));
  REQUIRE(other);
  CHECK(other->generation == Generation{3});
  // What it was begun behind does not.
  spans[1].after = GenerationEnd{{3}, 7};
  CHECK(contradicting(spans, {2})->generation == Generation{1});
  // Of what Litestream wrote only the store's times are known.
  spans[0].committed.reset();
  CHECK_FALSE(contradicting(spans, {2}));
  spans[0].committed = at(30);
  spans[1].committed.reset();
  CHECK_FALSE(contradicting(spans, {2}));
}

TEST_CASE("of two replicas the one is newer whose generation was begun behind the other's") {
  const std::vector<GenerationSpan> spans{shipped(1, 0, 10, 7), shipped(3, 0, 10, 9, {{{1}, 7}}),
                                          shipped(2, 0, 10, 4, {{{3}, 9}})};
  const auto after = ancestors(spans, {2});
  CHECK(after == std::vector<GenerationEnd>{{{3}, 9}, {{1}, 7}});
  CHECK(ancestors(spans, {1}).empty());
  const std::vector<GenerationSpan> round{shipped(1, 0, 1, 1, {{{2}, 1}}),
                                          shipped(2, 0, 1, 1, {{{1}, 1}})};
  CHECK(ancestors(round, {1}).size() == 2);

  const RestoreTarget newer{{2}, at(10), 4, after};
  for (const RestoreTarget& older :
       {RestoreTarget{{1}, at(1000), 7, {}}, RestoreTarget{{3}, at(1000), 8, {}}}) {
    CHECK(is_newer(newer, older));
    CHECK_FALSE(is_newer(older, newer));
  }
  const RestoreTarget gone_on{{1}, at(1000), 8, {}};
  CHECK(is_newer(gone_on, newer));
  CHECK_FALSE(is_newer(newer, gone_on));
  CHECK_FALSE(is_newer(newer, newer));
}

TEST_CASE("a moment belongs to the generation that covers it, or that ended last before it") {
  const std::vector<GenerationSpan> spans{{{1}, at(0), at(10)}, {{2}, at(20), at(30)}};
  CHECK(generation_at(spans, at(0)) == Generation{1});
  CHECK(generation_at(spans, at(10)) == Generation{1});
  CHECK(generation_at(spans, at(15)) == Generation{1});
  CHECK(generation_at(spans, at(20)) == Generation{2});
  CHECK(generation_at(spans, at(99)) == Generation{2});
}

TEST_CASE("a moment before all generations is refused, naming the earliest one") {
  const std::vector<GenerationSpan> spans{{{1}, at(20), at(30)}, {{2}, at(10), at(15)}};
  const std::string text = message(spans, at(9));
  CHECK(mentions(text, "before the first snapshot"));
  CHECK(mentions(text, format_rfc3339(at(10))));
  CHECK(mentions(text, Generation{2}.str()));
}

TEST_CASE("generations that overlap at the moment must be chosen from") {
  const std::vector<GenerationSpan> spans{
      {{1}, at(0), at(10)}, {{2}, at(5), at(15)}, {{3}, at(40), at(50)}};
  CHECK(generation_at(spans, at(4)) == Generation{1});
  CHECK(generation_at(spans, at(12)) == Generation{2});
  for (const int moment : {5, 7, 10}) {
    const std::string text = message(spans, at(moment));
    CHECK(mentions(text, Generation{1}.str()));
    CHECK(mentions(text, Generation{2}.str()));
    CHECK_FALSE(mentions(text, Generation{3}.str()));
    CHECK(mentions(text, "-generation"));
  }
}

TEST_CASE("a generation that begins at the moment another ends takes over without question") {
  const std::vector<GenerationSpan> spans{{{1}, at(0), at(10)}, {{2}, at(10), at(15)}};
  CHECK(generation_at(spans, at(10)) == Generation{2});
}

TEST_CASE("the prefix search finds every prefix length") {
  for (std::size_t count = 0; count < 40; ++count) {
    for (std::size_t length = 0; length <= count; ++length) {
      PrefixSearch search(count);
      int probes = 0;
      while (const auto probe = search.next()) {
        REQUIRE(*probe < count);
        search.tell(*probe < length);
        REQUIRE(++probes <= 7);
      }
      CHECK(search.length() == length);
    }
  }
}

TEST_CASE("the prefix search goes on without what is taken out of it") {
  for (std::size_t count = 0; count < 40; ++count) {
    for (std::size_t length = 0; length <= count; ++length) {
      for (std::size_t out = 1; out <= 5; ++out) {
        std::vector<std::size_t> items(count);
        std::iota(items.begin(), items.end(), 0);
        PrefixSearch search(count);
        while (const auto probe = search.next()) {
          REQUIRE(*probe < items.size());
          if (items[*probe] % (out + 1) == out) {
            items.erase(items.begin() + static_cast<std::ptrdiff_t>(*probe));
            search.drop();
          } else {
            search.tell(items[*probe] < length);
          }
        }
        REQUIRE(search.length() <= items.size());
        for (std::size_t i = 0; i < items.size(); ++i) {
          if (items[i] % (out + 1) == out) continue;
          REQUIRE((items[i] < length) == (i < search.length()));
        }
      }
    }
  }
}

RestorePlan plan_of(std::uint32_t snapshot, const std::vector<Position>& positions) {
  RestorePlan plan;
  plan.snapshot.index = snapshot;
  for (const Position position : positions) plan.segments.push_back({position, 100, {}});
  return plan;
}

TEST_CASE("names show indexes that are missing or lack their beginning") {
  CHECK_FALSE(first_gap(plan_of(3, {})));
  CHECK_FALSE(first_gap(plan_of(3, {{3, 0}, {3, 40}, {4, 0}, {4, 80}})));
  CHECK_FALSE(first_gap(plan_of(3, {{4, 0}})));  // nothing happened between two snapshots
  CHECK(first_gap(plan_of(3, {{3, 40}})) == 0);
  CHECK(first_gap(plan_of(3, {{5, 0}})) == 0);
  CHECK(first_gap(plan_of(3, {{3, 0}, {5, 0}})) == 1);
  CHECK(first_gap(plan_of(3, {{3, 0}, {4, 8}})) == 1);
  CHECK_FALSE(first_gap(plan_of(0xffffffff, {{0xffffffff, 0}, {0xffffffff, 40}})));
}

TEST_CASE("a reach names the flags that go there") {
  const std::string text = describe_reach({{0xab}, {2, 0x1000}, at(7)});
  CHECK(mentions(text, "00000000000000ab/00000002:00001000"));
  CHECK(mentions(text, "-generation 00000000000000ab -timestamp " + format_rfc3339(at(7))));
}

}  // namespace
}  // namespace sqlstream
