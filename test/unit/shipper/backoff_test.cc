#include "shipper/backoff.h"

#include <doctest/doctest.h>

#include "shipper/replicator.h"
#include "store/s3/retry.h"

using namespace sqlstream;
using namespace std::chrono_literals;

namespace {

/// A service that accepts no connection, or takes them and answers nothing but 503, in simulated
/// time.
struct Outage {
  std::chrono::milliseconds time{0};
  int requests = 0;

  /// One operation of a store; it ends when the store gives up.
  void ask(bool connects, std::uint64_t seed) {
    RetrySchedule schedule({}, seed);
    const auto begun = time;
    while (true) {
      ++requests;
      time += 5ms;
      const auto pause =
          connects ? schedule.next(time - begun, {}) : schedule.next_connect(time - begun);
      if (!pause) return;
      time += *pause;
    }
  }
};

}  // namespace

TEST_CASE("pauses grow to the longest, and begin anew") {
  Backoff backoff(1s, 5s);
  CHECK(backoff.next() == 1s);
  CHECK(backoff.next() == 2s);
  CHECK(backoff.next() == 4s);
  CHECK(backoff.next() == 5s);
  CHECK(backoff.next() == 5s);
  backoff.reset();
  CHECK(backoff.next() == 1s);
}

TEST_CASE("an hour without the store: few requests, and it is asked again soon after") {
  for (const bool connects : {false, true}) {
    CAPTURE(connects);
    Outage outage;
    Backoff backoff = store_backoff(false);
    std::chrono::milliseconds longest{0};
    for (std::uint64_t seed = 1; outage.time < 1h; ++seed) {
      outage.ask(connects, seed);
      const auto pause = std::chrono::duration_cast<std::chrono::milliseconds>(backoff.next());
      longest = std::max(longest, pause);
      outage.time += pause;
    }
    CHECK(longest == 5s);
    CHECK(outage.requests > 100);
    CHECK(outage.requests < 2500);
  }
}
