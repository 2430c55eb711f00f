#include "shipper/durability.h"

#include <algorithm>
#include <utility>

namespace sqlstream {

Durability::Durability(std::size_t replicas, bool any) : any_(any), ends_(replicas) {}

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
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

bool Durability::wait_promised(std::uint64_t ticket, Clock::time_point until) {
  std::unique_lock lock(mutex_);
  const auto is_durable = [&] {
    const std::uint64_t sequence = find(ticket);
    return sequence != 0 && durable().sequence >= sequence;
  };
  changed_.wait_until(lock, until, [&] { return stopped() || promised() == 0 || is_durable(); });
  return is_durable();
}

void Durability::shipped(std::size_t replica, End end) {
  const std::lock_guard lock(mutex_);
  if (end.sequence <= ends_[replica].sequence) return;
  ends_[replica] = end;
  changed_.notify_all();
}

// Precondition: mutex_ is held.
Durability::End Durability::durable() const {
  const auto less = [](const End& a, const End& b) { return a.sequence < b.sequence; };
  const auto chosen = any_ ? std::max_element(ends_.begin(), ends_.end(), less)
                           : std::min_element(ends_.begin(), ends_.end(), less);
  return chosen == ends_.end() ? End{} : *chosen;
}

Durability::End Durability::end() const {
  const std::lock_guard lock(mutex_);
  return durable();
}

bool Durability::wait(std::uint64_t sequence, Clock::time_point until) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, until, [&] { return stopped() || durable().sequence >= sequence; });
  return durable().sequence >= sequence;
}

void Durability::stop() {
  const std::lock_guard lock(mutex_);
  stopped_.store(true);
  changed_.notify_all();
}

std::optional<Durability::Behind> Durability::behind() const {
  const std::lock_guard lock(mutex_);
  return behind_;
}

bool Durability::fall_behind(Behind behind) {
  const std::lock_guard lock(mutex_);
  if (behind_) return false;
  behind_ = behind;
  return true;
}

bool Durability::catch_up() {
  const std::lock_guard lock(mutex_);
  return std::exchange(behind_, std::nullopt).has_value();
}

}  // namespace sqlstream
