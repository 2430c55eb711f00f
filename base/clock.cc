#include "base/clock.h"

#include <array>
#include <cstdio>
#include <ctime>

namespace sqlstream {
namespace {

constexpr std::int64_t kNanosPerSecond = 1'000'000'000;

// Takes exactly `digits` decimal digits from the front.
std::optional<int> take_number(std::string_view& text, std::size_t digits) {
  if (text.size() < digits) return std::nullopt;
  int value = 0;
  for (std::size_t i = 0; i < digits; ++i) {
    if (text[i] < '0' || text[i] > '9') return std::nullopt;
    value = value * 10 + (text[i] - '0');
  }
  text.remove_prefix(digits);
  return value;
}

bool take_char(std::string_view& text, std::string_view any_of) {
  if (text.empty() || any_of.find(text.front()) == std::string_view::npos) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

Time now() {
  return std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now());
}

std::string format_rfc3339(Time time) {
  // In plain numbers: the first second that nanoseconds reach does not begin within them.
  const std::int64_t count = time.time_since_epoch().count();
  const std::int64_t nanos = (count % kNanosPerSecond + kNanosPerSecond) % kNanosPerSecond;
  const std::time_t t = count / kNanosPerSecond - (count % kNanosPerSecond < 0 ? 1 : 0);
  std::tm parts{};
  gmtime_r(&t, &parts);
  std::array<char, 40> buffer{};
  std::string text(buffer.data(),
                   std::strftime(buffer.data(), buffer.size(), "%Y-%m-%dT%H:%M:%S", &parts));
  if (nanos != 0) {
    const int n =
        std::snprintf(buffer.data(), buffer.size(), ".%09lld", static_cast<long long>(nanos));
    text.append(buffer.data(), static_cast<std::size_t>(n));
    text.erase(text.find_last_not_of('0') + 1);
  }
  return text + 'Z';
}

std::optional<Time> parse_rfc3339(std::string_view text) {
  const auto year = take_number(text, 4);
  if (!year || !take_char(text, "-")) return std::nullopt;
  const auto month = take_number(text, 2);
  if (!month || !take_char(text, "-")) return std::nullopt;
  const auto day = take_number(text, 2);
  if (!day || !take_char(text, "Tt ")) return std::nullopt;
  const auto hour = take_number(text, 2);
  if (!hour || !take_char(text, ":")) return std::nullopt;
  const auto minute = take_number(text, 2);
  if (!minute || !take_char(text, ":")) return std::nullopt;
  const auto second = take_number(text, 2);
  if (!second) return std::nullopt;

  std::int64_t nanos = 0;
  if (take_char(text, ".,")) {
    std::int64_t unit = kNanosPerSecond / 10;
    std::size_t digits = 0;
    for (; !text.empty() && text.front() >= '0' && text.front() <= '9'; ++digits, unit /= 10) {
      nanos += unit * (text.front() - '0');
      text.remove_prefix(1);
    }
    if (digits == 0) return std::nullopt;
  }

  int offset_minutes = 0;
  if (!take_char(text, "Zz")) {
    const bool west = !text.empty() && text.front() == '-';
    if (!take_char(text, "+-")) return std::nullopt;
    const auto h = take_number(text, 2);
    if (!h || !take_char(text, ":")) return std::nullopt;
    const auto m = take_number(text, 2);
    if (!m || *h > 23 || *m > 59) return std::nullopt;
    offset_minutes = (west ? -1 : 1) * (*h * 60 + *m);
  }
  if (!text.empty()) return std::nullopt;

  const std::chrono::year_month_day date{std::chrono::year{*year},
                                         std::chrono::month{static_cast<unsigned>(*month)},
                                         std::chrono::day{static_cast<unsigned>(*day)}};
  // 60 is a leap second.
  if (!date.ok() || *hour > 23 || *minute > 59 || *second > 60) return std::nullopt;
  if (*year < 1678) return std::nullopt;
  const std::chrono::seconds whole =
      std::chrono::sys_days{date}.time_since_epoch() + std::chrono::hours{*hour} +
      std::chrono::minutes{*minute - offset_minutes} + std::chrono::seconds{*second};
  // Nanoseconds in 64 bits reach so far; what means "for ever" is often behind that.
  constexpr auto kLast = std::chrono::floor<std::chrono::seconds>(Time::max());
  const std::chrono::nanoseconds rest{nanos};
  const bool behind = whole > kLast.time_since_epoch() ||
                      (whole == kLast.time_since_epoch() && rest > Time::max() - kLast);
  return behind ? Time{kLast} : Time{whole} + rest;
}

std::string elapsed_since(std::chrono::steady_clock::time_point begun) {
  const auto passed = std::chrono::steady_clock::now() - begun;
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(passed).count()) +
         "ms";
}

}  // namespace sqlstream
