#include "shipper/durability.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace sqlstream {

void Durability::captured(std::uint64_t tickets, std::uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  if (tickets <= newest().tickets) return;
  captured_[next_] = {tickets, sequence};
  next_ = (next_ + 1) % captured_.size();
}

// Precondition: mutex_ is held.
const Durability::Captured& Durability::newest() const {
  return captured_[(next_ + captured_.size() - 1) % captured_.size()];
}

std::uint64_t Durability::captured_tickets() const {
  const std::lock_guard lock(mutex_);
  return newest().tickets;
}

std::uint64_t Durability::sequence_of(std::uint64_t ticket) const {
  const std::lock_guard lock(mutex_);
  return find(ticket);
}

// Precondition: mutex_ is held.
std::uint64_t Durability::find(std::uint64_t ticket) const {
  for (std::size_t i = 0; i < captured_.size(); ++i) {
    const Captured& each = captured_[(next_ + i) % captured_.size()];  // oldest first
    if (each.tickets >= ticket) return each.sequence;
  }
  return 0;
}

void Durability::promise(std::uint64_t enough) {
  const bool before = promised_.exchange(enough) != 0;
  if (enough != 0 || !before) return;
  std::unique_lock lock(mutex_);
  Waiters called = take_called();
  lock.unlock();
  call(std::move(called));
}

bool Durability::wait_promised(std::uint64_t ticket, bool any, Clock::time_point until) {
  Waiter waiter;
  waiter.ticket = ticket;
  waiter.any = any;
  return wait(waiter, until);
}

bool Durability::wait(std::uint64_t sequence, bool any, Clock::time_point until) {
  Waiter waiter;
  waiter.sequence = sequence;
  waiter.any = any;
  return wait(waiter, until);
}

bool Durability::wait(Waiter& waiter, Clock::time_point until) {
  {
    const std::lock_guard lock(mutex_);
    if (!waits(waiter)) return is_durable(waiter);
    waiters_.push_back(waiter);
  }
  if (!waiter.call.wait_until(until)) {
    std::unique_lock lock(mutex_);
    if (!waiter.durable) {
      waiters_.erase(waiters_.iterator_to(waiter));
      return is_durable(waiter);
    }
    lock.unlock();
    waiter.call.wait();  // it is on its way
  }
  return *waiter.durable;
}

// Precondition: mutex_ is held.
bool Durability::is_durable(const Waiter& waiter) const {
  const std::uint64_t sequence = waiter.ticket != 0 ? find(waiter.ticket) : waiter.sequence;
  return (sequence != 0 || waiter.ticket == 0) && durable(waiter.any).sequence >= sequence;
}

// Precondition: mutex_ is held.
bool Durability::waits(const Waiter& waiter) const {
  const bool promise_taken_back = waiter.ticket != 0 && promised() == 0;
  return !stopped() && !promise_taken_back && !is_durable(waiter);
}

// Precondition: mutex_ is held. Those that need not wait any longer; they are to be called once it
// is not: what they do next is to ask for it.
Durability::Waiters Durability::take_called() {
  Waiters called;
  for (auto each = waiters_.begin(); each != waiters_.end();) {
    const auto next = std::next(each);
    if (!waits(*each)) {
      each->durable = is_durable(*each);
      called.splice(called.end(), waiters_, each);
    }
    each = next;
  }
  return called;
}

void Durability::call(Waiters waiters) noexcept {
  while (!waiters.empty()) {
    Waiter& first = waiters.front();
    waiters.pop_front();  // before it is gone
    first.call.call();
  }
}

void Durability::shipped(std::size_t replica, End end) {
  std::unique_lock lock(mutex_);
  if (end.sequence <= ends_[replica].sequence) return;
  ends_[replica] = end;
  Waiters called = take_called();
  lock.unlock();
  call(std::move(called));
}

// Precondition: mutex_ is held.
Durability::End Durability::durable(bool any) const {
  const auto less = [](const End& a, const End& b) { return a.sequence < b.sequence; };
  const auto chosen = any ? std::max_element(ends_.begin(), ends_.end(), less)
                          : std::min_element(ends_.begin(), ends_.end(), less);
  return chosen == ends_.end() ? End{} : *chosen;
}

std::uint64_t Durability::end_of(std::size_t replica) const {
  const std::lock_guard lock(mutex_);
  return ends_[replica].sequence;
}

Durability::End Durability::end(bool any) const {
  const std::lock_guard lock(mutex_);
  return durable(any);
}

void Durability::stop() {
  std::unique_lock lock(mutex_);
  stopped_.store(true);
  Waiters called = take_called();
  lock.unlock();
  call(std::move(called));
}

std::optional<Durability::Behind> Durability::behind(bool any) const {
  if (!has_behind_[any].load()) return std::nullopt;
  const std::lock_guard lock(mutex_);
  return behind_[any];
}

bool Durability::fall_behind(bool any, Behind behind) {
  const std::lock_guard lock(mutex_);
  if (behind_[any]) return false;
  behind_[any] = behind;
  has_behind_[any].store(true);
  return true;
}

bool Durability::catch_up(bool any) {
  const std::lock_guard lock(mutex_);
  has_behind_[any].store(false);
  return std::exchange(behind_[any], std::nullopt).has_value();
}

}  // namespace sqlstream
