#include "shipper/put_budget.h"

#include <algorithm>
#include <vector>

#include <doctest/doctest.h>

using namespace sqlstream;
using namespace std::chrono_literals;
using std::chrono::nanoseconds;

namespace {

constexpr std::uint64_t kPerDay = 2400;
const Time kBegin = Time(1'000'000'000s);

// A replica under load that never stops, or has something to ship once in a while: when its PUTs
// were sent.
std::vector<Time> ship(PutBudget budget, nanoseconds interval, nanoseconds every,
                       nanoseconds how_long, std::uint64_t per_day = kPerDay) {
  std::vector<Time> puts;
  Time last{};
  Time committed = kBegin;
  for (Time time = kBegin; time < kBegin + how_long;) {
    const auto pause = budget.pause(per_day, time, interval);
    const Time next = std::max(time, (pause.from_now ? time : last) + pause.length);
    if (pause.from_now && next > time) {
      time = next;
      continue;
    }
    budget.take(per_day, next, 1);
    puts.push_back(last = next);
    committed = std::max(committed + every, next);
    time = committed;
  }
  return puts;
}

// The most in any 24 hours.
std::size_t most_in_a_day(const std::vector<Time>& puts) {
  std::size_t most = 0;
  for (std::size_t first = 0, end = 0; first < puts.size(); ++first) {
    while (end < puts.size() && puts[end] < puts[first] + 24h) ++end;
    most = std::max(most, end - first);
  }
  return most;
}

}  // namespace

TEST_CASE("adaptive: no 24 hours have more PUTs than asked for, however much is committed") {
  for (const std::uint64_t per_day : {1, 24, 100, 2400, 50'000}) {
    const auto puts = ship({}, 1s, 0s, 96h, per_day);
    CAPTURE(per_day);
    CHECK(most_in_a_day(puts) <= std::max<std::uint64_t>(per_day, 2));
    CHECK(puts.size() >= per_day * 7 / 2);
  }
}

TEST_CASE("adaptive: a budget that is not used up changes nothing") {
  // One commit a minute is 1,440 a day.
  const auto puts = ship({}, 1s, 60s, 24h);
  REQUIRE(puts.size() == 1440);
  for (std::size_t i = 1; i < puts.size(); ++i) CHECK(puts[i] - puts[i - 1] == 60s);
}

TEST_CASE("adaptive: the interval grows with what was sent, up to an even spread") {
  const auto puts = ship({}, 1s, 0s, 24h);
  CHECK(puts[1] - puts[0] < 2s);
  const auto spread = nanoseconds(24h) / kPerDay;
  for (std::size_t i = 1; i < puts.size(); ++i) CHECK(puts[i] - puts[i - 1] < spread * 11 / 10);
  CHECK(puts.back() - puts[puts.size() - 2] > spread * 9 / 10);
}

TEST_CASE("adaptive: what could not wait is waited for afterwards") {
  PutBudget budget;
  budget.take(kPerDay, kBegin, 200);  // an hour's worth, and another
  const auto pause = budget.pause(kPerDay, kBegin, 1s);
  CHECK(pause.from_now);
  CHECK(pause.length > 1h);
  CHECK(pause.length < 2h);
  CHECK_FALSE(budget.pause(kPerDay, kBegin + pause.length + 1s, 1s).from_now);
}

TEST_CASE("adaptive: a clock that jumps back gives nothing and takes nothing") {
  PutBudget budget;
  budget.take(kPerDay, kBegin, 90);
  const double left = budget.left;
  budget.take(kPerDay, kBegin - 5h, 1);
  CHECK(budget.left == doctest::Approx(left - 1));
  budget.take(kPerDay, kBegin, 0);
  CHECK(budget.left <= doctest::Approx(static_cast<double>(kPerDay) / 25));
}

TEST_CASE("adaptive: the PUTs of an object") {
  CHECK(puts_of(1) == 1);
  CHECK(puts_of(5 << 20) == 1);
  CHECK(puts_of(12 << 20) == 5);  // three parts, begun and completed
}
