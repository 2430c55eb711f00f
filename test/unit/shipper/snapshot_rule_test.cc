#include <doctest/doctest.h>

#include "shipper/maintenance.h"

using namespace sqlstream;
using namespace std::chrono_literals;

namespace {

constexpr Time kLast{};
constexpr std::uint64_t kMost = SnapshotRule::kLeastBytes;

}  // namespace

TEST_CASE("no snapshot is due without a segment since the last") {
  CHECK_FALSE(SnapshotRule{1h, 24h}.due(kLast, 100, 0));
}

TEST_CASE("a snapshot is due by the time that comes first") {
  CHECK(SnapshotRule{1h, 24h}.due(kLast, 100, 1) == kLast + 1h);
  CHECK(SnapshotRule{48h, 24h}.due(kLast, 100, 1) == kLast + 24h);
  CHECK(SnapshotRule{std::nullopt, 24h}.due(kLast, 100, 1) == kLast + 24h);
  CHECK_FALSE(SnapshotRule{std::nullopt, 0s}.due(kLast, 100, 1));
}

TEST_CASE("a snapshot is due at once where a restore would replay many times its bytes") {
  const SnapshotRule rule{std::nullopt, 0s};
  CHECK_FALSE(rule.due(kLast, 100, kMost));
  CHECK(rule.due(kLast, 100, kMost + 1) == kLast);
  CHECK_FALSE(rule.due(kLast, kMost, SnapshotRule::kWorth * kMost));
  CHECK(rule.due(kLast, kMost, SnapshotRule::kWorth * kMost + 1) == kLast);
}

TEST_CASE("the longer a snapshot is overdue, the less often it is begun again") {
  constexpr Time kDue{24h};
  CHECK(SnapshotRule::again(kDue, Time{}) == kDue);
  CHECK(SnapshotRule::again(kDue, kDue - 1s) == kDue);
  CHECK(SnapshotRule::again(kDue, kDue) == kDue);
  CHECK(SnapshotRule::again(kDue, kDue + 1min) == kDue + 1min + 15s);
  CHECK(SnapshotRule::again(kDue, kDue + 100h) == kDue + 101h);
}
