#include "capture/file_mark.h"

#include <doctest/doctest.h>

using namespace sqlstream;
using namespace sqlstream::capture;

namespace {

constexpr wal::Salt kSalt{1, 2};
constexpr wal::Salt kNext{3, 4};

FileMark mark(wal::Salt salt, std::uint32_t done, std::uint32_t begun) {
  return {{1, 2, 4096, 100, 100}, salt, {done, begun}};
}

Record captured(wal::Salt salt, std::uint32_t frame) {
  Record record;
  record.source = {salt, frame, 7, {8, 9}};
  return record;
}

constexpr std::int64_t kLater = 60'000'000'000;

bool same_rest(const FileMark& known, const FileMark& now, const Record& last,
               bool recovered = false, std::int64_t time = kLater) {
  return is_same_rest(known, now, last, {recovered, false, time});
}

}  // namespace

TEST_CASE("a file's content is the same while size and time of writing are") {
  const FileMark known = mark(kSalt, 0, 0);
  FileIdentity file = known.file;
  CHECK(known.same_content(file));
  file.ctime = 200;  // its mode, owner or number of names
  CHECK(known.same_content(file));
  file.mtime = 101;
  CHECK_FALSE(known.same_content(file));
  file = known.file;
  file.size = 8192;
  CHECK_FALSE(known.same_content(file));
  file = known.file;
  file.inode = 3;
  CHECK_FALSE(known.same_content(file));
}

TEST_CASE("no checkpoint came in between while the WAL and the progress are the same") {
  const Record last = captured(kSalt, 20);
  CHECK(same_rest(mark(kSalt, 10, 10), mark(kSalt, 10, 10), last));
  CHECK_FALSE(same_rest(mark(kSalt, 10, 10), mark(kSalt, 20, 20), last));
  CHECK_FALSE(same_rest(mark(kSalt, 10, 10), mark(kSalt, 10, 20), last));
}

TEST_CASE("a recovery forgets the progress, and writes nothing") {
  const Record last = captured(kSalt, 20);
  CHECK(same_rest(mark(kSalt, 10, 10), mark(kSalt, 0, 20), last, true));
  // In the midst of a session it is a checkpoint of all frames, the first one.
  CHECK_FALSE(same_rest(mark(kSalt, 10, 10), mark(kSalt, 0, 20), last, false));
  CHECK_FALSE(same_rest(mark(kSalt, 10, 10), mark(kSalt, 5, 20), last, true));
}

TEST_CASE("what is known since a recovery may be another's checkpoint, until the file has rested") {
  const Record last = captured(kSalt, 20);
  CHECK(same_rest(mark(kSalt, 0, 20), mark(kSalt, 0, 20), last));
  CHECK_FALSE(same_rest(mark(kSalt, 0, 20), mark(kSalt, 0, 20), last, false, 1'000'000'000));
  CHECK(same_rest(mark(kSalt, 0, 20), mark(kSalt, 0, 20), last, true, 1'000'000'000));
  // Who has the lock for checkpoints knows that it is not.
  const Moment locked{false, true, 1'000'000'000};
  CHECK(is_same_rest(mark(kSalt, 0, 20), mark(kSalt, 0, 20), last, locked));
}

TEST_CASE("a checkpoint that failed may be tried again, until the file has rested") {
  const Record last = captured(kSalt, 20);
  for (const std::uint32_t done : {0U, 5U}) {
    const FileMark failed = mark(kSalt, done, 20);
    CHECK(same_rest(failed, failed, last));
    CHECK_FALSE(same_rest(failed, failed, last, false, 1'000'000'000));
    CHECK(is_same_rest(failed, failed, last, {false, true, 1'000'000'000}));
  }
}

TEST_CASE("the next WAL proves as much only after one that was in the file as a whole") {
  Record last = captured(kSalt, 20);
  last.sequence = 5;
  const auto whole = [](std::uint64_t at) {
    FileMark known = mark(kSalt, 20, 20);
    known.whole_at = at;
    return known;
  };
  CHECK(same_rest(whole(5), mark(kNext, 0, 0), last));
  CHECK_FALSE(same_rest(whole(0), mark(kNext, 0, 0), last));
  CHECK_FALSE(same_rest(whole(4), mark(kNext, 0, 0), last));  // another batch came later
  CHECK_FALSE(same_rest(whole(5), mark(kNext, 3, 3), last));
  CHECK_FALSE(same_rest(whole(5), mark(kNext, 0, 3), last));
  CHECK(same_rest(whole(5), mark(kNext, 0, 3), last, true));
}

TEST_CASE("a look is remembered while no checkpoint is under way") {
  const auto at_rest = [](std::uint32_t done, std::uint32_t begun, bool recovered, bool locked,
                          std::int64_t time = 1'000'000'000) {
    return is_at_rest(mark(kSalt, done, begun), {recovered, locked, time});
  };
  CHECK(at_rest(0, 0, false, false));
  CHECK(at_rest(10, 10, false, false));
  CHECK_FALSE(at_rest(10, 20, false, false));
  CHECK_FALSE(at_rest(10, 20, true, false));
  CHECK_FALSE(at_rest(0, 20, false, false));
  CHECK(at_rest(0, 20, true, false));
  CHECK(at_rest(10, 20, false, true));
  // It may have begun and not written yet.
  CHECK_FALSE(at_rest(10, 20, false, false, kLater));
}
