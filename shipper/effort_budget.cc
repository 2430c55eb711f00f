#include "shipper/effort_budget.h"

#include <algorithm>

namespace sqlstream {

bool EffortBudget::take(std::uint64_t bytes, Clock::time_point now) {
  constexpr Clock::duration kSaved = std::chrono::seconds(1);
  if (bytes > kBytesPerSecond) return false;
  const auto cost = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(static_cast<double>(bytes) / kBytesPerSecond));
  const auto until = now.time_since_epoch();
  auto before = spent_until_.load();
  auto after = before;
  do {
    after = std::max(before, until - kSaved) + cost;
    if (after > until) return false;
  } while (!spent_until_.compare_exchange_weak(before, after));
  return true;
}

}  // namespace sqlstream
