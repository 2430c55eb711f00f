#include "shipper/durability.h"

#include <atomic>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

using namespace sqlstream;
using namespace std::chrono_literals;

namespace {

Durability::Clock::time_point now_and_then() {
  return Durability::Clock::now() + 1min;
}

}  // namespace

TEST_CASE("a commit is where the first capture ended that began behind it") {
  Durability durability(1);
  const auto before = durability.take_ticket();
  const auto covered = durability.tickets();
  const auto meanwhile = durability.take_ticket();
  CHECK(durability.sequence_of(before) == 0);
  durability.captured(covered, 7);
  CHECK(durability.sequence_of(before) == 7);
  CHECK(durability.sequence_of(meanwhile) == 0);
  durability.captured(durability.tickets(), 9);
  CHECK(durability.sequence_of(before) == 7);
  CHECK(durability.sequence_of(meanwhile) == 9);
  durability.captured(durability.tickets(), 12);  // found nothing new to say
  CHECK(durability.sequence_of(meanwhile) == 9);
}

TEST_CASE("a capture that was forgotten is one that came later") {
  Durability durability(1);
  const auto first = durability.take_ticket();
  durability.captured(durability.tickets(), 1);
  for (std::uint64_t i = 2; i < 200; ++i) {
    durability.take_ticket();
    durability.captured(durability.tickets(), i);
  }
  CHECK(durability.sequence_of(first) > 1);
  CHECK(durability.sequence_of(first) < 200);
  CHECK(durability.sequence_of(durability.tickets()) == 199);
}

TEST_CASE("durable is what all replicas have, or one where one is enough") {
  for (const bool any : {false, true}) {
    Durability durability(2);
    CHECK(durability.end(any).sequence == 0);
    durability.shipped(0, {5, {}});
    CHECK(durability.end(any).sequence == (any ? 5 : 0));
    durability.shipped(1, {3, {}});
    CHECK(durability.end(any).sequence == (any ? 5 : 3));
    durability.shipped(0, {4, {}});  // an older note of another process
    CHECK(durability.end(any).sequence == (any ? 5 : 3));
    CHECK(durability.wait(any ? 5 : 3, any, now_and_then()));
    CHECK_FALSE(durability.wait(6, any, Durability::Clock::now()));
  }
}

TEST_CASE("waiting ends with the replica's answer, or when nobody is to wait any more") {
  Durability durability(1);
  std::thread shipper([&] { durability.shipped(0, {2, {}}); });
  CHECK(durability.wait(2, false, now_and_then()));
  shipper.join();
  std::thread exiting([&] { durability.stop(); });
  CHECK_FALSE(durability.wait(3, false, now_and_then()));
  exiting.join();
  CHECK_FALSE(durability.wait(3, false, now_and_then()));
  CHECK(durability.wait(2, false, now_and_then()));
}

TEST_CASE("the answer may come in the very moment in which the time is over") {
  constexpr std::uint64_t kRounds = 2000;
  Durability durability(1);
  std::vector<std::thread> waiting;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i) {
    waiting.emplace_back([&durability, &wrong, i] {
      for (std::uint64_t sequence = 1; sequence <= kRounds; ++sequence) {
        const auto soon = Durability::Clock::now() + std::chrono::microseconds((sequence + i) % 70);
        const bool durable = durability.wait(sequence, false, soon);
        if (durable && durability.end(false).sequence < sequence) ++wrong;
        if (!durable && !durability.wait(sequence, false, now_and_then())) ++wrong;
      }
    });
  }
  for (std::uint64_t sequence = 1; sequence <= kRounds; ++sequence) {
    std::this_thread::sleep_for(20us);
    durability.shipped(0, {sequence, {}});
  }
  for (std::thread& each : waiting) each.join();
  CHECK(wrong == 0);
}

TEST_CASE("being behind begins once and ends once, for each of what is waited for") {
  Durability durability(2);
  for (const bool any : {false, true}) {
    CHECK_FALSE(durability.behind(any));
    CHECK(durability.fall_behind(any, {Time(1s), 4, 10ms}));
    CHECK_FALSE(durability.fall_behind(any, {Time(2s), 5, 10ms}));
    CHECK(durability.behind(any)->ticket == 4);
  }
  CHECK(durability.catch_up(true));
  CHECK_FALSE(durability.catch_up(true));
  CHECK_FALSE(durability.behind(true));
  CHECK(durability.behind(false));
}

TEST_CASE("who waits on a promise goes on when it is kept, and when it is taken back") {
  Durability durability(1);
  CHECK(durability.promised() == 0);
  durability.promise(Durability::kNever);
  const auto ticket = durability.take_ticket();
  CHECK_FALSE(durability.wait_promised(ticket, false, Durability::Clock::now() + 1ms));
  bool kept = false;
  std::thread waits([&] { kept = durability.wait_promised(ticket, false, now_and_then()); });
  durability.captured(durability.tickets(), 4);
  durability.shipped(0, {3, {}});
  durability.shipped(0, {4, {}});
  waits.join();
  CHECK(kept);

  const auto next = durability.take_ticket();
  bool taken_back = true;
  std::thread again([&] { taken_back = durability.wait_promised(next, false, now_and_then()); });
  durability.promise(0);
  again.join();
  CHECK_FALSE(taken_back);
  // It may have become true meanwhile.
  durability.captured(durability.tickets(), 5);
  durability.shipped(0, {5, {}});
  CHECK(durability.wait_promised(next, false, now_and_then()));
}

TEST_CASE("a promise holds nobody who is to end") {
  Durability durability(1);
  durability.promise(Durability::kNever);
  const auto ticket = durability.take_ticket();
  std::thread stops([&] { durability.stop(); });
  CHECK_FALSE(durability.wait_promised(ticket, false, now_and_then()));
  stops.join();
}
