#include "shipper/group_commit.h"

#include <doctest/doctest.h>

using namespace sqlstream;
using namespace std::chrono_literals;

namespace {

/// Tickets and time go on as a test says.
struct Shipper {
  GroupCommit group;
  GroupCommit::Clock::time_point now{1h};
  std::uint64_t ticket = 0;

  /// So many commits come in, and a segment with them takes that long; meanwhile come `late`.
  void ship(std::uint64_t commits, GroupCommit::Clock::duration took, std::uint64_t late = 0) {
    ticket += commits;
    group.begin(ticket, now);
    now += took;
    ticket += late;
    group.shipped(ticket, now);
  }
  bool complete_with(std::uint64_t commits) const { return ticket + commits >= group.enough(); }
};

}  // namespace

TEST_CASE("a segment waits for those that the last one released") {
  Shipper s;
  s.ship(8, 20ms);
  CHECK_FALSE(s.complete_with(1));
  CHECK_FALSE(s.complete_with(7));
  CHECK(s.complete_with(8));
  s.ship(8, 20ms);
  s.ship(8, 20ms);
  CHECK_FALSE(s.complete_with(7));
  CHECK(s.complete_with(8));
}

TEST_CASE("a segment waits for a single writer's commit and no longer") {
  Shipper s;
  s.ship(1, 20ms);
  CHECK(s.complete_with(1));
}

TEST_CASE("who was late counts as a writer, too") {
  Shipper s;
  s.ship(7, 20ms, 1);
  CHECK_FALSE(s.complete_with(6));
  CHECK(s.complete_with(7));  // and the one that is there
  s.ship(7, 20ms);
  CHECK_FALSE(s.complete_with(7));
  CHECK(s.complete_with(8));
}

TEST_CASE("a writer that is gone is waited for once") {
  Shipper s;
  s.ship(8, 20ms);
  s.ship(7, 20ms);
  CHECK(s.complete_with(7));
}

TEST_CASE("the wait is short, and in proportion to what a segment takes") {
  Shipper s;
  CHECK(s.group.until(s.now) == s.now);
  s.ship(1, 1ms);
  CHECK(s.group.until(s.now) == s.now + 2ms);
  s.ship(1, 10s);
  CHECK(s.group.until(s.now) == s.now + 15ms);
}

TEST_CASE("where those who were released do other things first, segments do not wait, or rarely") {
  Shipper s;
  s.ship(9, 20ms, 9);
  int waited = 0;
  for (int i = 0; i < 100; ++i) {
    waited += s.complete_with(0) ? 0 : 1;
    s.ship(0, 20ms, 9);
  }
  CHECK(waited >= 5);
  CHECK(waited <= 12);
  while (s.complete_with(0)) s.ship(0, 20ms, 9);
  // From now on they come at once: it is noticed, and stays so.
  for (int i = 0; i < 10; ++i) {
    CHECK_FALSE(s.complete_with(0));
    s.ship(i == 0 ? 9 : 18, 20ms);  // nine are there already
  }
}

TEST_CASE("without commits that wait nothing is waited for") {
  Shipper s;
  for (int i = 0; i < 3; ++i) {
    CHECK(s.complete_with(0));
    s.ship(0, 20ms);
  }
}
