#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// Durations, sizes and switches as people write them. Pure; nothing throws.
namespace sqlstream::config {

/// A duration in Go's syntax: "300ms", "1m30s", "1.5h", "-2us", "0". Empty when it is not one or
/// does not fit.
std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text);

/// The same the other way, as Go writes it: "1.5s", "24h0m0s", "0s".
std::string format_duration(std::chrono::nanoseconds duration);

/// A size in bytes: "1048576", "64MiB", "1.5GB", "512K" (K, M, G, T alone count in 1024s).
std::optional<std::uint64_t> parse_size(std::string_view text);

/// "true", "yes", "on", "1" and their opposites, in any case.
std::optional<bool> parse_bool(std::string_view text);

/// How long a commit waits in the synchronous mode: "off" (0), "on" (5 s), a number of
/// milliseconds, or a duration.
std::optional<std::chrono::milliseconds> parse_sync(std::string_view text);

}  // namespace sqlstream::config
