#include "base/clock.h"

#include <doctest/doctest.h>

namespace sqlstream {
namespace {

Time nanos(std::int64_t n) {
  return Time{std::chrono::nanoseconds{n}};
}

constexpr std::int64_t kSecond = 1'000'000'000;

TEST_CASE("times are printed in RFC 3339 with the fraction they need") {
  CHECK(format_rfc3339(nanos(0)) == "1970-01-01T00:00:00Z");
  CHECK(format_rfc3339(nanos(1)) == "1970-01-01T00:00:00.000000001Z");
  CHECK(format_rfc3339(nanos(1795231766 * kSecond + 120'000'000)) == "2026-11-21T03:29:26.12Z");
  CHECK(format_rfc3339(nanos(951782400 * kSecond)) == "2000-02-29T00:00:00Z");
  CHECK(format_rfc3339(nanos(-1)) == "1969-12-31T23:59:59.999999999Z");
  CHECK(format_rfc3339(Time::min()) == "1677-09-21T00:12:43.145224192Z");
  CHECK(format_rfc3339(Time::max()) == "2262-04-11T23:47:16.854775807Z");
}

TEST_CASE("RFC 3339 is read with any offset and fraction") {
  const Time t = nanos(1795231766 * kSecond);
  CHECK(parse_rfc3339("2026-11-21T03:29:26Z") == t);
  CHECK(parse_rfc3339("2026-11-21t03:29:26z") == t);
  CHECK(parse_rfc3339("2026-11-21 03:29:26Z") == t);
  CHECK(parse_rfc3339("2026-11-21T05:29:26+02:00") == t);
  CHECK(parse_rfc3339("2026-11-20T21:59:26-05:30") == t);
  CHECK(parse_rfc3339("2026-11-21T03:29:26-00:00") == t);
  CHECK(parse_rfc3339("2026-11-21T03:29:26.5Z") == nanos(t.time_since_epoch().count() + 500000000));
  CHECK(parse_rfc3339("2026-11-21T03:29:26.000000001Z") == nanos(t.time_since_epoch().count() + 1));
  // Digits past nanoseconds are cut, not rounded.
  CHECK(parse_rfc3339("2026-11-21T03:29:26.0000000019999Z") ==
        nanos(t.time_since_epoch().count() + 1));
  CHECK(parse_rfc3339("2016-12-31T23:59:60Z") == parse_rfc3339("2017-01-01T00:00:00Z"));
  CHECK(parse_rfc3339("2000-02-29T00:00:00Z") == nanos(951782400 * kSecond));
}

TEST_CASE("what is not RFC 3339 is refused") {
  for (const char* text : {"",
                           "now",
                           "2026-11-21",
                           "2026-11-21T03:29:26",
                           "2026-11-21T03:29Z",
                           "2026-13-01T00:00:00Z",
                           "2026-02-29T00:00:00Z",
                           "2026-11-31T00:00:00Z",
                           "2026-11-21T24:00:00Z",
                           "2026-11-21T03:60:26Z",
                           "2026-11-21T03:29:61Z",
                           "2026-11-21T03:29:26.Z",
                           "2026-11-21T03:29:26+0200",
                           "2026-11-21T03:29:26+24:00",
                           "2026-11-21T03:29:26+02:60",
                           "2026-11-21T03:29:26ZZ",
                           " 2026-11-21T03:29:26Z",
                           "2026-11-21T03:29:26Z ",
                           "+026-11-21T03:29:26Z",
                           "2026-1-21T03:29:26Z",
                           "2026-11-21_03:29:26Z"}) {
    CAPTURE(text);
    CHECK(!parse_rfc3339(text));
  }
}

TEST_CASE("printing and reading agree, to the ends of the range") {
  for (const std::int64_t n :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{-1}, std::int64_t{123456789},
        1795231766 * kSecond + 987654321, -9'200'000'000 * kSecond, 9'200'000'000 * kSecond}) {
    CAPTURE(n);
    CHECK(parse_rfc3339(format_rfc3339(nanos(n))) == nanos(n));
  }
}

TEST_CASE("times that 64 bits of nanoseconds cannot hold") {
  // The range ends at 1677-09-21T00:12:43.145… and 2262-04-11T23:47:16.854….
  CHECK(parse_rfc3339("1678-01-01T00:00:00Z").has_value());
  CHECK(parse_rfc3339("2261-12-31T23:59:59Z").has_value());
  // Credentials that hold for ever, a restore of all there is.
  CHECK(!parse_rfc3339("0001-01-01T00:00:00Z"));  // what some take for no time at all
  for (const char* text : {"9999-12-31T23:59:59.999Z", "2262-04-11T23:47:16.854775808Z",
                           "2262-04-11T23:47:17Z", "2262-04-11T22:47:17.5-01:00"}) {
    CAPTURE(text);
    REQUIRE(parse_rfc3339(text));
    CHECK(format_rfc3339(*parse_rfc3339(text)) == "2262-04-11T23:47:16Z");
  }
  CHECK(parse_rfc3339(format_rfc3339(Time::max())) == Time::max());
}

}  // namespace
}  // namespace sqlstream
