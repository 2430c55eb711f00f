#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace sqlstream {

/// UTC wall-clock time in nanoseconds since 1970.
using Time = std::chrono::sys_time<std::chrono::nanoseconds>;

/// The wall clock, now. Thread-safe.
Time now();

/// "2026-11-21T03:29:26.123456789Z"; the fraction is left out when zero, trailing zeros are cut.
std::string format_rfc3339(Time time);

/// RFC 3339 with any offset and any fraction (digits past nanoseconds are cut); 'T' may be lower
/// case or a space. What is later than a Time can be gives the last second that one can. Empty when
/// the text is not one, or earlier than 1678.
std::optional<Time> parse_rfc3339(std::string_view text);

/// The whole milliseconds since `begun`, as "12ms": for log lines.
std::string elapsed_since(std::chrono::steady_clock::time_point begun);

}  // namespace sqlstream
