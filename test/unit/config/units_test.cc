#include "config/units.h"

#include <limits>

#include <doctest/doctest.h>

using namespace sqlstream::config;
using namespace std::chrono_literals;

TEST_CASE("durations are read as Go reads them") {
  CHECK(parse_duration("24h") == 24h);
  CHECK(parse_duration("1m30s") == 90s);
  CHECK(parse_duration("500ms") == 500ms);
  CHECK(parse_duration("1.5h") == 90min);
  CHECK(parse_duration(".5s") == 500ms);
  CHECK(parse_duration("5.s") == 5s);
  CHECK(parse_duration("1h2m3s4ms5us6ns") == 1h + 2min + 3s + 4ms + 5us + 6ns);
  CHECK(parse_duration("7\u00b5s") == 7us);
  CHECK(parse_duration("7\u03bcs") == 7us);
  CHECK(parse_duration("0") == 0ns);
  CHECK(parse_duration("-1m") == -60s);
  CHECK(parse_duration("+2s") == 2s);
  CHECK(parse_duration("0.0000000001s") == 0ns);
  CHECK(parse_duration("2562047h") == 2562047h);
}

TEST_CASE("what is no duration is refused") {
  for (const char* text : {"", "-", "24", "1", "h", ".s", "1 s", "1d", "1m30", "s1", "1s ", "1..5s",
                           "2562048h", "99999999999999999999s", "1e3s"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_duration(text));
  }
}

TEST_CASE("sizes are read with decimal and binary units") {
  CHECK(parse_size("0") == 0u);
  CHECK(parse_size("1048576") == 1048576u);
  CHECK(parse_size("64MiB") == 64u << 20);
  CHECK(parse_size("64 MB") == 64'000'000u);
  CHECK(parse_size("1.5g") == 3u << 29);
  CHECK(parse_size("512K") == 512u << 10);
  CHECK(parse_size("18446744073709551615") == std::nullopt);
  CHECK(parse_size("1844674407370955161") == 1844674407370955161u);
  for (const char* text : {"", "MB", "-1", "1XB", "1 M B", "99999999T"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_size(text));
  }
}

TEST_CASE("switches are read in any case") {
  CHECK(parse_bool("true") == true);
  CHECK(parse_bool("YES") == true);
  CHECK(parse_bool("1") == true);
  CHECK(parse_bool("False") == false);
  CHECK(parse_bool("off") == false);
  CHECK_FALSE(parse_bool("maybe"));
  CHECK_FALSE(parse_bool(""));
}

TEST_CASE("how long a commit waits: off, on, milliseconds or a duration") {
  CHECK(parse_sync("off") == 0ms);
  CHECK(parse_sync("0") == 0ms);
  CHECK(parse_sync("On") == 5000ms);
  CHECK(parse_sync("1") == 1ms);
  CHECK(parse_sync("250") == 250ms);
  CHECK(parse_sync("1.5s") == 1500ms);
  CHECK(parse_sync("1us") == 1ms);
  CHECK(parse_sync("2147483647") == 2147483647ms);
  for (const char* text : {"", "soon", "-1", "-1s", "2147483648", "99999999999999999999", "5 "}) {
    CAPTURE(text);
    CHECK_FALSE(parse_sync(text));
  }
}

TEST_CASE("durations are written as Go does") {
  for (const char* text : {"0s", "1ns", "999ns", "1.5\u00b5s", "2ms", "1.000001ms", "1s", "59.9s",
                           "1m0s", "1h0m0.5s", "24h0m0s", "-1m30s"}) {
    CAPTURE(text);
    CHECK(format_duration(parse_duration(text).value()) == text);
  }
}
