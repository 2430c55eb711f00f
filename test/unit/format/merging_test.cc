#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "format/merged_pages.h"
#include "format/out_of_order.h"
#include "test/unit/format/random.h"

// Random histories of batches, against a model that applies them in order, one after the other.

namespace sqlstream {
namespace {

using Image = std::uint32_t;  // 0 stands for a page of zeros

struct Batch {
  std::uint32_t size = 0;
  std::uint32_t smallest = 0;  // < size only for folds of several batches
  std::vector<std::pair<std::uint32_t, Image>> images;
};

using State = std::vector<Image>;  // page n at n - 1

// The plain model: a shrink cuts, a growth brings zeros.
void apply(State& state, const Batch& batch) {
  state.resize(std::min<std::size_t>(state.size(), batch.smallest));
  state.resize(batch.size);
  for (const auto& [page, image] : batch.images) {
    if (page <= batch.size) state[page - 1] = image;
  }
}

State in_order(State state, const std::vector<Batch>& batches) {
  for (const Batch& batch : batches) apply(state, batch);
  return state;
}

MergedPages<Image> merge(const std::vector<Batch>& batches) {
  MergedPages<Image> merged;
  for (const Batch& batch : batches) {
    merged.begin_batch(batch.smallest);
    merged.begin_batch(batch.size);
    for (const auto& [page, image] : batch.images) merged.add(page, image);
  }
  return merged;
}

Batch fold(const std::vector<Batch>& batches) {
  auto merged = merge(batches);
  return {merged.database_size(), merged.smallest_size(), merged.sorted()};
}

// A fold as it is shipped: nothing tells its smallest size, images of zeros make up for it.
Batch fold_to_ship(const std::vector<Batch>& batches) {
  auto merged = merge(batches);
  Batch batch{merged.database_size(), merged.database_size(), merged.sorted()};
  for (const std::uint32_t page : merged.cleared()) batch.images.emplace_back(page, 0);
  return batch;
}

template <class Fold>
std::vector<Batch> fold_some(test::Random& random, const std::vector<Batch>& batches, Fold fold) {
  std::vector<Batch> folds;
  for (auto it = batches.begin(); it != batches.end();) {
    const auto n = std::min<std::ptrdiff_t>(random.between(1, 5), batches.end() - it);
    folds.push_back(fold(std::vector<Batch>(it, it + n)));
    it += n;
  }
  return folds;
}

struct History {
  State snapshot;
  std::vector<Batch> batches;
};

// Sizes wander within [least, most], jump now and then, and most images are of few, hot pages.
History make_history(test::Random& random, std::uint32_t least, std::uint32_t most) {
  History history;
  Image next = 1;
  std::uint32_t size = random.between(least, most);
  history.snapshot.resize(size);
  for (Image& image : history.snapshot) image = random.one_in(8) ? 0 : next++;
  const std::uint32_t count = random.between(0, 20);
  for (std::uint32_t i = 0; i < count; ++i) {
    if (random.one_in(3)) size = random.between(least, most);
    Batch batch{size, size, {}};
    std::set<std::uint32_t> pages;
    const std::uint32_t images = random.between(0, 6);
    for (std::uint32_t n = 0; n < images; ++n) {
      // Now and then beyond the size: such an image never counts.
      const std::uint32_t page =
          random.one_in(4) ? random.between(1, 4) : random.between(least, most + 2);
      if (page != 0 && pages.insert(page).second) batch.images.emplace_back(page, next++);
    }
    std::shuffle(batch.images.begin(), batch.images.end(), random.engine());
    history.batches.push_back(std::move(batch));
  }
  return history;
}

// Writes newest first, as a restore does, and checks what NewestFirst promises on the way.
State out_of_order(const State& snapshot, const std::vector<Batch>& batches,
                   std::uint32_t page_size, bool snapshot_as_batch) {
  NewestFirst order(page_size);
  State state;
  bool begun = false;
  const auto visit = [&](const Batch& batch) {
    order.begin_batch(batch.size);
    if (!begun) state.resize(batch.size);
    begun = true;
    REQUIRE(order.final_size() == state.size());
    std::set<std::uint32_t> written;
    for (const auto& [page, image] : batch.images) {
      const bool complete = order.complete();
      if (!order.take(page)) continue;
      REQUIRE(!complete);
      REQUIRE(page <= state.size());
      state[page - 1] = image;
      REQUIRE(!order.take(page));
    }
    if (batch.smallest < batch.size) order.begin_batch(batch.smallest);
  };
  for (auto it = batches.rbegin(); it != batches.rend(); ++it) visit(*it);

  const auto snapshot_size = static_cast<std::uint32_t>(snapshot.size());
  Batch whole{snapshot_size, snapshot_size, {}};
  if (snapshot_as_batch || !begun) {
    for (std::uint32_t page = 1; page <= snapshot_size; ++page) {
      whole.images.emplace_back(page, snapshot[page - 1]);
    }
    visit(whole);
    return state;
  }
  std::uint32_t behind = 0;
  order.for_each_missing([&](std::uint32_t first, std::uint32_t last) {
    REQUIRE(first > behind);
    REQUIRE(first <= last);
    REQUIRE(last <= order.final_size());
    behind = last;
    for (std::uint32_t page = first; page <= last; ++page) {
      REQUIRE(state[page - 1] == 0);
      if (page > order.limit() || page > snapshot_size) continue;
      if (page != wal::lock_byte_page(page_size)) REQUIRE(!order.complete());
      state[page - 1] = snapshot[page - 1];
    }
  });
  return state;
}

TEST_CASE("10,000 random histories: every way of merging gives the state of the plain model") {
  test::Random random("merging");
  std::size_t shrinks_undone = 0;
  for (int round = 0; round < 10'000; ++round) {
    CAPTURE(round);
    const std::uint32_t most = random.between(1, random.one_in(10) ? 200 : 24);
    const History history = make_history(random, random.one_in(20) ? 0 : 1, most);
    const State expected = in_order(history.snapshot, history.batches);

    // One fold of everything.
    const Batch all = fold(history.batches);
    if (!history.batches.empty()) {
      REQUIRE(in_order(history.snapshot, {all}) == expected);
      REQUIRE(in_order(history.snapshot, {fold_to_ship(history.batches)}) == expected);
      const auto ordered = [](const auto& a, const auto& b) { return a.first < b.first; };
      REQUIRE(std::is_sorted(all.images.begin(), all.images.end(), ordered));
      for (const auto& image : all.images) REQUIRE(image.first <= all.size);
      if (all.smallest < all.size) ++shrinks_undone;
    }

    // Folds of folds of folds, in both forms, applied in order and newest first.
    std::vector<Batch> folds = history.batches;
    std::vector<Batch> shipped = history.batches;
    for (int level = 0; level < 3; ++level) {
      for (const auto& batches : {folds, shipped}) {
        REQUIRE(in_order(history.snapshot, batches) == expected);
        REQUIRE(out_of_order(history.snapshot, batches, 4096, true) == expected);
        REQUIRE(out_of_order(history.snapshot, batches, 4096, false) == expected);
      }
      folds = fold_some(random, folds, fold);
      shipped = fold_some(random, shipped, fold_to_ship);
    }
    if (!history.batches.empty()) {
      const Batch again = fold(folds);
      REQUIRE(again.size == all.size);
      REQUIRE(again.smallest == all.smallest);
      REQUIRE(again.images == all.images);
    }
  }
  CHECK(shrinks_undone > 1000);
}

TEST_CASE("the lock-byte page is never taken, also when an object holds it") {
  test::Random random("lock-byte page");
  constexpr std::uint32_t kLockPage = wal::lock_byte_page(65536);
  REQUIRE(kLockPage == 16385);
  for (int round = 0; round < 20; ++round) {
    CAPTURE(round);
    const History history = make_history(random, kLockPage - 6, kLockPage + 6);
    State expected = in_order(history.snapshot, history.batches);
    if (expected.size() >= kLockPage) expected[kLockPage - 1] = 0;
    REQUIRE(out_of_order(history.snapshot, history.batches, 65536, true) == expected);
  }
}

TEST_CASE("an image from before a shrink does not survive a later growth") {
  MergedPages<Image> merged;
  merged.begin_batch(10);
  merged.add(7, 70);
  merged.add(2, 20);
  merged.begin_batch(3);
  merged.add(1, 10);
  merged.begin_batch(8);
  merged.add(8, 80);
  merged.add(9, 90);
  CHECK(merged.sorted() == decltype(merged.sorted()){{1, 10}, {2, 20}, {8, 80}});
  CHECK(merged.database_size() == 8);
  CHECK(merged.smallest_size() == 3);
  CHECK(merged.cleared() == std::vector<std::uint32_t>{4, 5, 6, 7});
  CHECK(merged.count() == 3);
}

TEST_CASE("newest first: what each page comes from") {
  NewestFirst order(4096);
  CHECK(!order.complete());
  order.begin_batch(6);  // the newest
  CHECK(order.take(6));
  CHECK(!order.take(6));
  CHECK(!order.take(7));
  CHECK(!order.take(0));
  order.begin_batch(3);  // a shrink before it: 4 and 5 are zeros whatever came before
  CHECK(order.take(1));
  order.begin_batch(8);
  CHECK(order.limit() == 3);
  CHECK(!order.take(5));
  CHECK(!order.take(1));
  CHECK(order.take(3));
  CHECK(!order.complete());
  std::vector<std::pair<std::uint32_t, std::uint32_t>> missing;
  order.for_each_missing([&](auto first, auto last) { missing.emplace_back(first, last); });
  CHECK(missing == decltype(missing){{2, 2}, {4, 5}});
  CHECK(order.take(2));
  CHECK(order.complete());
}

TEST_CASE("memory follows the pages taken, not a size that is claimed") {
  NewestFirst order(512);
  order.begin_batch(0xffffffff);
  CHECK(order.take(70));
  std::uint64_t missing = 0;
  order.for_each_missing(
      [&](std::uint64_t first, std::uint64_t last) { missing += last - first + 1; });
  CHECK(missing == 0xfffffffe);
  order.begin_batch(70);
  CHECK(order.limit() == 70);
  for (std::uint32_t page = 1; page < 70; ++page) {
    CHECK(!order.complete());
    CHECK(order.take(page));
  }
  CHECK(order.complete());
}

}  // namespace
}  // namespace sqlstream
