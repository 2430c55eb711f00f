#include "shipper/group_commit.h"

#include <algorithm>
#include <utility>

namespace sqlstream {

namespace {

constexpr auto kLongest = std::chrono::milliseconds(15);
constexpr int kLongestRest = 16;

}  // namespace

void GroupCommit::begin(std::uint64_t ticket, Clock::time_point now) {
  const std::uint64_t released = last_ - first_;
  const std::uint64_t returned = ticket - std::min(ticket, when_shipped_);
  if (resting_ > 0) {
    --resting_;
  } else {
    const bool paid = returned * 3 >= released * 2;
    rest_ = paid ? 0 : std::clamp(rest_ * 2, 1, kLongestRest);
    resting_ = rest_;
  }
  first_ = std::exchange(last_, ticket);
  when_shipped_ = ticket;
  begun_ = now;
}

void GroupCommit::shipped(std::uint64_t ticket, Clock::time_point now) {
  when_shipped_ = ticket;
  took_ = now - begun_;
}

std::uint64_t GroupCommit::enough() const {
  const std::uint64_t writers = when_shipped_ - first_;
  return resting_ > 0 ? last_ : last_ + writers;
}

GroupCommit::Clock::time_point GroupCommit::until(Clock::time_point now) const {
  return now + std::min<Clock::duration>(2 * took_, kLongest);
}

}  // namespace sqlstream
