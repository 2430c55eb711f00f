#include "shipper/effort_budget.h"

#include <doctest/doctest.h>

using namespace sqlstream;
using namespace std::chrono_literals;

TEST_CASE("what was saved can be spent at once, and more as time passes") {
  constexpr std::uint64_t kAll = EffortBudget::kSaved;
  EffortBudget budget;
  EffortBudget::Clock::time_point now(1h);
  CHECK_FALSE(budget.take(kAll + 1, now));
  CHECK(budget.take(kAll / 2, now));
  CHECK_FALSE(budget.take(kAll / 2 + 1, now));
  CHECK(budget.take(kAll / 2, now));
  CHECK_FALSE(budget.take(1, now));
  now += std::chrono::milliseconds(250 * kAll / EffortBudget::kBytesPerSecond);
  CHECK_FALSE(budget.take(kAll / 4 + 1, now));
  CHECK(budget.take(kAll / 4, now));
  now += 1min;
  CHECK_FALSE(budget.take(kAll + 1, now));
  CHECK(budget.take(kAll, now));
  CHECK_FALSE(budget.take(1, now));
}
