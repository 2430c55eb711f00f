// The identity of the database file, by which a clean close is recognised.

#include "capture/source.h"

#include <fcntl.h>
#include <fstream>
#include <string>
#include <unistd.h>

#include <doctest/doctest.h>

#include "base/unique_fd.h"
#include "support.h"

using namespace sqlstream;
using namespace sqlstream::capture;
using namespace sqlstream::testing;

TEST_CASE("no file has no identity") {
  const TempFolder folder;
  CHECK_FALSE(identify(folder.file("none")));
  CHECK_FALSE(stamp_identity(folder.file("none")));
}

TEST_CASE("a file's tag stays through writes, and is not that of one in its place") {
  const TempFolder folder;
  const std::string path = folder.file("a");
  CHECK(file_tag(path) == 0);
  std::ofstream(path) << "content";
  const std::uint32_t tag = file_tag(path);
  CHECK(tag != 0);
  std::ofstream(path) << "other content";
  stamp_identity(path);
  CHECK(file_tag(path) == tag);
  std::ofstream(folder.file("b")) << "content";
  ::rename(folder.file("b").c_str(), path.c_str());
  CHECK(file_tag(path) != tag);
}

TEST_CASE("a stamped identity stays until somebody writes") {
  const TempFolder folder;
  const std::string path = folder.file("a");
  std::ofstream(path) << "content";
  const auto stamped = stamp_identity(path);
  REQUIRE(stamped);
  CHECK(stamped->size == 7);
  CHECK(identify(path) == stamped);
  CHECK(stamp_identity(path) != stamped);
  CHECK(stamped->same_file(*identify(path)));
}

// Where the kernel's times are fine, any stat() tells: with coarse ones in test_local_faults.py.
TEST_CASE("a write of the same size right after the stamp is seen") {
  const TempFolder folder;
  const std::string path = folder.file("a");
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  REQUIRE(::write(fd.get(), "content", 7) == 7);
  for (int i = 0; i < 200; ++i) {
    // The write before the stamp falls into the same clock tick, mostly.
    REQUIRE(::pwrite(fd.get(), "c", 1, 0) == 1);
    const auto stamped = stamp_identity(path);
    REQUIRE(::pwrite(fd.get(), "d", 1, 0) == 1);
    const auto after = identify(path);
    if (after == stamped) FAIL("unseen in round " << i);
    CHECK(after->size == stamped->size);
  }
}
