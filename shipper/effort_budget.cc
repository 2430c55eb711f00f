#include "shipper/effort_budget.h"

#include <algorithm>

namespace sqlstream {

bool EffortBudget::take(std::uint64_t bytes, Clock::time_point now) {
  if (bytes > kSaved) return false;
  const auto worth = [](std::uint64_t so_many) {
    return Clock::duration(std::chrono::nanoseconds(so_many * 1'000'000'000 / kBytesPerSecond));
  };
  const auto until = now.time_since_epoch();
  auto before = spent_until_.load();
  auto after = before;
  do {
    after = std::max(before, until - worth(kSaved)) + worth(bytes);
    if (after > until) return false;
  } while (!spent_until_.compare_exchange_weak(before, after));
  return true;
}

}  // namespace sqlstream
