#include "shipper/put_budget.h"

#include <algorithm>

namespace sqlstream {
namespace {

// What is kept and what comes within any 24 hours are a day's PUTs together.
constexpr double kParts = 25;
constexpr double kDay = 24.0 * 60 * 60;
constexpr std::uint64_t kPart = 5U << 20;  // the smallest S3 takes

double capacity(std::uint64_t per_day) {
  return std::max(1.0, static_cast<double>(per_day) / kParts);
}

// Seconds for one.
double period(std::uint64_t per_day) {
  return kDay / (static_cast<double>(per_day) * (kParts - 1) / kParts);
}

std::chrono::nanoseconds to_ns(double seconds) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(seconds));
}

}  // namespace

// A clock that was set back gives nothing, and takes nothing.
double PutBudget::left_at(std::uint64_t per_day, Time now) const {
  const double full = capacity(per_day);
  if (at == Time{}) return full;
  const double passed =
      std::chrono::duration<double>(std::max(now - at, Time::duration(0))).count();
  return std::min(full, left + passed / period(per_day));
}

void PutBudget::take(std::uint64_t per_day, Time now, std::uint64_t puts) {
  left = left_at(per_day, now) - static_cast<double>(puts);
  at = now;
}

PutBudget::Pause PutBudget::pause(std::uint64_t per_day, Time now,
                                  std::chrono::nanoseconds shortest) const {
  const double known = left_at(per_day, now);
  if (known < 1) return {to_ns((1 - known) * period(per_day)), true};
  const double missing = 1 - known / capacity(per_day);
  // Cubed: a database that is busy for a moment hardly notices.
  return {std::max(shortest, to_ns(missing * missing * missing * period(per_day))), false};
}

std::uint64_t puts_of(std::uint64_t stored) {
  return stored <= kPart ? 1 : stored / kPart + 3;  // parts, and what begins and ends them
}

}  // namespace sqlstream
