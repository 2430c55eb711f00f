#include "tools/progress.h"

#include <doctest/doctest.h>

namespace sqlstream::tools {
namespace {

using std::chrono::duration;

TEST_CASE("progress says how much, how fast and how long") {
  RestoreProgress progress{12, 35, 120'500'000, 241'000'000};
  CHECK(describe_progress(progress, duration<double>(2)) ==
        "50%, 120.5 MB of 241.0 MB, 12 of 35 objects, 60.2 MB/s, 2 s left");
  progress.bytes_done = 1'000'000;
  CHECK(describe_progress(progress, duration<double>(2)) ==
        "0%, 1.0 MB of 241.0 MB, 12 of 35 objects, 500.0 kB/s, 8 min left");
}

TEST_CASE("progress without a rate yet, or without bytes at all") {
  CHECK(describe_progress({0, 2, 0, 999}, duration<double>(0)) ==
        "0%, 0 B of 999 B, 0 of 2 objects");
  CHECK(describe_progress({}, duration<double>(1)) == "100%, 0 B of 0 B, 0 of 0 objects");
}

}  // namespace
}  // namespace sqlstream::tools
