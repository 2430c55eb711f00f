#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sqlstream {

/// The lowest `digits` hex digits of `value`, lower case, with leading zeros.
inline std::string to_hex(std::uint64_t value, std::size_t digits) {
  std::string text(digits, '0');
  for (std::size_t i = digits; i-- > 0; value >>= 4) text[i] = "0123456789abcdef"[value & 0xf];
  return text;
}

/// Takes exactly `digits` (at most 16) lower-case hex digits and nothing else.
inline std::optional<std::uint64_t> from_hex(std::string_view text, std::size_t digits) {
  if (text.size() != digits) return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : text) {
    if (c >= '0' && c <= '9') {
      value = value << 4 | static_cast<std::uint64_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      value = value << 4 | static_cast<std::uint64_t>(c - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return value;
}

}  // namespace sqlstream
