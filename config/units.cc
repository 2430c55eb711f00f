#include "config/units.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

namespace sqlstream::config {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// A decimal number cut from the front of `text`: digits * 10^-scale. Digits that would overflow
// make it empty, further fraction digits are dropped.
struct Decimal {
  std::uint64_t digits = 0;
  std::uint64_t divisor = 1;
};

std::optional<Decimal> take_decimal(std::string_view& text) {
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max() / 10 - 1;
  Decimal number;
  bool any = false;
  for (; !text.empty() && is_digit(text.front()); text.remove_prefix(1)) {
    if (number.digits > kMost) return std::nullopt;
    number.digits = number.digits * 10 + static_cast<unsigned>(text.front() - '0');
    any = true;
  }
  if (!text.empty() && text.front() == '.') {
    text.remove_prefix(1);
    for (; !text.empty() && is_digit(text.front()); text.remove_prefix(1)) {
      any = true;
      if (number.digits > kMost || number.divisor > 1'000'000'000'000) continue;
      number.digits = number.digits * 10 + static_cast<unsigned>(text.front() - '0');
      number.divisor *= 10;
    }
  }
  if (!any) return std::nullopt;
  return number;
}

__extension__ using Wide = unsigned __int128;

// digits * unit / divisor, if it is at most `most`.
std::optional<std::uint64_t> scale(Decimal number, std::uint64_t unit, std::uint64_t most) {
  const auto value = static_cast<Wide>(number.digits) * unit / number.divisor;
  if (value > most) return std::nullopt;
  return static_cast<std::uint64_t>(value);
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return result;
}

using Unit = std::pair<std::string_view, std::uint64_t>;

// Longer names before those they begin with.
constexpr std::array kTimeUnits = {
    Unit{"ns", 1},
    Unit{"us", 1'000},
    Unit{"\u00b5s", 1'000},
    Unit{"\u03bcs", 1'000},
    Unit{"ms", 1'000'000},
    Unit{"s", 1'000'000'000},
    Unit{"m", 60'000'000'000},
    Unit{"h", 3'600'000'000'000},
};

constexpr std::array kSizeUnits = {
    Unit{"", 1},
    Unit{"b", 1},
    Unit{"kb", 1'000},
    Unit{"mb", 1'000'000},
    Unit{"gb", 1'000'000'000},
    Unit{"tb", 1'000'000'000'000},
    Unit{"k", 1ULL << 10},
    Unit{"m", 1ULL << 20},
    Unit{"g", 1ULL << 30},
    Unit{"t", 1ULL << 40},
    Unit{"kib", 1ULL << 10},
    Unit{"mib", 1ULL << 20},
    Unit{"gib", 1ULL << 30},
    Unit{"tib", 1ULL << 40},
};

}  // namespace

std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
  bool negative = false;
  if (!text.empty() && (text.front() == '-' || text.front() == '+')) {
    negative = text.front() == '-';
    text.remove_prefix(1);
  }
  if (text == "0") return std::chrono::nanoseconds(0);
  if (text.empty()) return std::nullopt;

  std::uint64_t total = 0;
  while (!text.empty()) {
    const auto number = take_decimal(text);
    if (!number) return std::nullopt;
    const auto unit = std::find_if(kTimeUnits.begin(), kTimeUnits.end(),
                                   [&](const Unit& u) { return text.starts_with(u.first); });
    if (unit == kTimeUnits.end()) return std::nullopt;
    text.remove_prefix(unit->first.size());
    const auto part = scale(*number, unit->second, kMost - total);
    if (!part) return std::nullopt;
    total += *part;
  }
  const auto value = static_cast<std::int64_t>(total);
  return std::chrono::nanoseconds(negative ? -value : value);
}

std::string format_duration(std::chrono::nanoseconds duration) {
  if (duration.count() < 0) {
    return '-' + format_duration(-duration);
  }
  struct Unit {
    std::int64_t size;
    const char* name;
  };
  constexpr std::int64_t kSecond = 1'000'000'000;
  std::int64_t count = duration.count();
  if (count == 0) return "0s";
  std::string text;
  Unit unit{kSecond, "s"};
  if (count < 1'000) {
    unit = {1, "ns"};
  } else if (count < 1'000'000) {
    unit = {1'000, "\u00b5s"};
  } else if (count < kSecond) {
    unit = {1'000'000, "ms"};
  }
  if (count >= 3600 * kSecond) text += std::to_string(count / (3600 * kSecond)) + 'h';
  if (count >= 60 * kSecond) text += std::to_string(count / (60 * kSecond) % 60) + 'm';
  count %= 60 * kSecond;
  text += std::to_string(count / unit.size);
  if (count % unit.size != 0) {
    std::string fraction = std::to_string(unit.size + count % unit.size);
    fraction[0] = '.';
    while (fraction.back() == '0') fraction.pop_back();
    text += fraction;
  }
  return text + unit.name;
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
  const auto number = take_decimal(text);
  if (!number) return std::nullopt;
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  const std::string name = lower(text);
  const auto unit = std::find_if(kSizeUnits.begin(), kSizeUnits.end(),
                                 [&](const Unit& u) { return name == u.first; });
  if (unit == kSizeUnits.end()) return std::nullopt;
  return scale(*number, unit->second, std::numeric_limits<std::uint64_t>::max());
}

std::optional<bool> parse_bool(std::string_view text) {
  const std::string word = lower(text);
  if (word == "true" || word == "yes" || word == "on" || word == "1") return true;
  if (word == "false" || word == "no" || word == "off" || word == "0") return false;
  return std::nullopt;
}

std::optional<std::chrono::milliseconds> parse_sync(std::string_view text) {
  using std::chrono::milliseconds;
  constexpr milliseconds kOn(5000);
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == text.npos;
  const auto limit = parse_duration(digits ? std::string(text) + "ms" : std::string(text));
  if (limit) {
    // As an int, which is what SQL programs have for it; and never 0 for what is not off.
    const auto rounded = std::chrono::ceil<milliseconds>(*limit);
    if (limit->count() < 0 || rounded.count() > std::numeric_limits<int>::max()) {
      return std::nullopt;
    }
    return rounded;
  }
  const auto wanted = parse_bool(text);
  if (!wanted) return std::nullopt;
  return *wanted ? kOn : milliseconds(0);
}

}  // namespace sqlstream::config
