#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sqlstream {

/// An unbroken history, named by 16 lower-case hex digits.
struct Generation {
  std::uint64_t id = 0;
  auto operator<=>(const Generation&) const = default;  // NOLINT(modernize-use-nullptr)
  std::string str() const;
  static std::optional<Generation> parse(std::string_view text);
  /// A new one from the kernel's random source.
  static Generation random();
};

/// Where in a generation: which WAL, and the byte in that (uncompressed) WAL.
struct Position {
  std::uint32_t index = 0;
  std::uint64_t offset = 0;
  auto operator<=>(const Position&) const = default;  // NOLINT(modernize-use-nullptr)
};

}  // namespace sqlstream
