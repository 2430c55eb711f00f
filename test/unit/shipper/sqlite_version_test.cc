#include "shipper/sqlite_version.h"

#include <doctest/doctest.h>

using namespace sqlstream;

TEST_CASE("versions as people write them") {
  CHECK(sqlite_version_text(3'040'001) == "3.40.1");
  CHECK(sqlite_version_text(3'051'000) == "3.51.0");
}

TEST_CASE("the WAL-reset bug came with WAL, and went at the end of three branches") {
  for (const int bad :
       {3'007'000, 3'040'001, 3'044'005, 3'045'000, 3'049'002, 3'050'006, 3'051'000, 3'051'002}) {
    CAPTURE(bad);
    CHECK(has_wal_reset_bug(bad));
  }
  for (const int good :
       {3'006'023, 3'044'006, 3'044'009, 3'050'007, 3'051'003, 3'052'000, 3'054'001, 4'000'000}) {
    CAPTURE(good);
    CHECK_FALSE(has_wal_reset_bug(good));
  }
}
