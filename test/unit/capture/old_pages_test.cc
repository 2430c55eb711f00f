#include "capture/old_pages.h"

#include <array>
#include <atomic>
#include <chrono>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include <doctest/doctest.h>

#include "support.h"

namespace sqlstream::capture {
namespace {

using testing::image_of;
using testing::TempFolder;

constexpr std::uint32_t kPageSize = 1024;
constexpr OldPages::Shape kShape{7, kPageSize, 100};
constexpr std::uint64_t kRoom = 1 << 20;
constexpr wal::Salt kSalt{1, 2};
constexpr wal::Salt kNextSalt{3, 4};

/// A wal-index header as SQLite would have it, and the database file beside it.
struct Source {
  std::array<std::uint32_t, 64> index{};
  std::uint32_t reads = 0;

  explicit Source(wal::Salt salt = kSalt) { begin_wal(salt); }

  void begin_wal(wal::Salt salt, std::uint32_t frames = 1000) {
    set_header(salt, frames);
    set_progress(0, 0);
  }
  void set_header(wal::Salt salt, std::uint32_t frames) {
    index[0] = 3007000;
    index[3] = 1 | std::uint32_t{kPageSize} << 16;
    index[4] = frames;
    index[8] = __builtin_bswap32(salt[0]);
    index[9] = __builtin_bswap32(salt[1]);
    const auto sum =
        wal::checksum({}, {reinterpret_cast<const std::uint8_t*>(index.data()), 40}, false);
    index[10] = sum[0];
    index[11] = sum[1];
    std::copy_n(index.begin(), 12, index.begin() + 12);
  }
  void set_progress(std::uint32_t done, std::uint32_t begun) {
    index[24] = done;
    index[32] = begun;
  }
  PageSaver::ReadFile reader(std::uint32_t version) {
    return [this, version](std::uint64_t offset, std::span<std::uint8_t> out) {
      const auto image =
          image_of(static_cast<std::uint32_t>(offset / kPageSize) + 1, kPageSize, version);
      std::copy(image.begin(), image.end(), out.begin());
      ++reads;
      return true;
    };
  }
};

struct Fixture {
  TempFolder folder;
  std::string directory = folder.file("");
  OldPages pages = OldPages::create(directory, 0600, kShape, {kSalt, 50});
  Source source;
  PageSaver saver{directory};

  // A whole checkpoint of frames up to `frame`, which overwrites `page`.
  void checkpoint(std::uint32_t frame, std::uint32_t page, std::uint32_t old_version) {
    saver.checkpoint_allowed(source.index.data());
    source.set_progress(source.index[24], frame);
    saver.begin(kShape.id, kRoom, source.index.data());
    saver.writing(std::uint64_t{page - 1} * kPageSize, kPageSize, source.reader(old_version));
    source.set_progress(frame, frame);
    saver.end(source.index.data());
  }
  Bytes read(std::uint32_t page) const {
    Bytes out(kPageSize);
    pages.read(page, out);
    return out;
  }
  bool saved(std::uint32_t page) const { return pages.saved(page, 1)[0] != 0; }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a page is saved as it was first, and once") {
  checkpoint(60, 10, 0);
  checkpoint(70, 10, 1);
  CHECK(saved(10));
  CHECK_FALSE(saved(9));
  CHECK_FALSE(saved(11));
  CHECK(read(10) == image_of(10, kPageSize, 0));
  CHECK(source.reads == 1);
  CHECK_FALSE(pages.is_void());
  CHECK(pages.announced().reached(kSalt) == 70);
  CHECK_FALSE(pages.announced().open);
}

TEST_CASE_FIXTURE(Fixture, "what is copied already, or came later, is not saved") {
  pages.set_copied(20);
  checkpoint(60, 20, 0);
  checkpoint(61, 101, 0);
  CHECK(source.reads == 0);
  checkpoint(62, 21, 0);
  CHECK(saved(21));
  checkpoint(63, 100, 0);
  CHECK(saved(100));
}

TEST_CASE_FIXTURE(Fixture, "a reset between the lock and the checkpoint is no checkpoint unseen") {
  checkpoint(1000, 10, 0);
  // The new salts are there, and what was brought into the file of the old WAL still is, too.
  source.set_header(kNextSalt, 0);
  saver.checkpoint_allowed(source.index.data());
  source.begin_wal(kNextSalt, 3);
  source.set_progress(0, 3);
  saver.begin(kShape.id, kRoom, source.index.data());
  CHECK(saver.active());
  source.set_progress(3, 3);
  saver.end(source.index.data());
  CHECK_FALSE(pages.is_void());
  CHECK(pages.announced().reached(kNextSalt) == 3);
}

TEST_CASE_FIXTURE(Fixture,
                  "a header that is being written when the lock is obtained is waited for") {
  ++source.index[2];  // one of its two copies
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic_ref(source.index[2]).fetch_sub(1);
  });
  checkpoint(60, 10, 0);
  writer.join();
  CHECK_FALSE(pages.is_void());
  CHECK(saved(10));
}

TEST_CASE_FIXTURE(Fixture, "pages that are cut off are saved") {
  pages.set_copied(95);
  saver.checkpoint_allowed(source.index.data());
  source.set_progress(0, 60);
  saver.begin(kShape.id, kRoom, source.index.data());
  saver.truncating(std::uint64_t{90} * kPageSize, source.reader(0));
  CHECK(source.reads == 5);
  CHECK(saved(96));
  CHECK(saved(100));
  CHECK(read(98) == image_of(98, kPageSize, 0));
  saver.truncating(std::uint64_t{100} * kPageSize, source.reader(0));
  CHECK(source.reads == 5);
}

TEST_CASE_FIXTURE(Fixture, "without a snapshot nothing is opened or saved") {
  saver.checkpoint_allowed(source.index.data());
  source.set_progress(0, 60);
  saver.begin(0, kRoom, source.index.data());
  CHECK_FALSE(saver.active());
  saver.begin(kShape.id + 1, kRoom, source.index.data());
  CHECK_FALSE(saver.active());
  CHECK_FALSE(pages.is_void());
}

TEST_CASE_FIXTURE(Fixture, "frames that somebody else brought into the file void it") {
  SUBCASE("wholly") {
    source.set_progress(55, 55);
  }
  SUBCASE("or in part") {
    source.set_progress(0, 55);
  }
  saver.checkpoint_allowed(source.index.data());
  source.set_progress(source.index[24], 60);
  saver.begin(kShape.id, kRoom, source.index.data());
  CHECK(pages.is_void());
  CHECK_FALSE(saver.active());
}

TEST_CASE_FIXTURE(Fixture, "so do frames of a WAL that nobody announced anything of") {
  source.begin_wal(kNextSalt);
  source.set_progress(3, 3);
  saver.checkpoint_allowed(source.index.data());
  source.set_progress(3, 5);
  saver.begin(kShape.id, kRoom, source.index.data());
  CHECK(pages.is_void());
}

TEST_CASE_FIXTURE(Fixture, "a wal-index that could not be read before tells nothing") {
  source.index[0] = 0;
  saver.checkpoint_allowed(source.index.data());
  source.begin_wal(kSalt);
  source.set_progress(0, 60);
  saver.begin(kShape.id, kRoom, source.index.data());
  CHECK(pages.is_void());
}

TEST_CASE_FIXTURE(Fixture, "a WAL that begins anew is announced anew") {
  checkpoint(60, 10, 0);
  source.begin_wal(kNextSalt);
  checkpoint(5, 11, 0);
  CHECK_FALSE(pages.is_void());
  CHECK(pages.announced().reached(kNextSalt) == 5);
  CHECK(pages.announced().covers({kNextSalt, 5, 0, {}}));
  CHECK_FALSE(pages.announced().covers({kNextSalt, 6, 0, {}}));
  CHECK_FALSE(pages.announced().covers({kSalt, 1, 0, {}}));
  CHECK(pages.announced().covers({kSalt, 0, 0, {}}));
}

TEST_CASE_FIXTURE(Fixture, "a checkpoint that was broken off voids it") {
  saver.checkpoint_allowed(source.index.data());
  source.set_progress(0, 60);
  saver.begin(kShape.id, kRoom, source.index.data());
  CHECK(pages.announced().open);
  CHECK_FALSE(pages.is_void());
  SUBCASE("with its connection") {
    saver = PageSaver(directory);
    CHECK(pages.is_void());
  }
  SUBCASE("by an error or an interrupt") {
    saver.end(source.index.data());
    CHECK(pages.is_void());
  }
  SUBCASE("with its process: the next one finds it open") {
    PageSaver next(directory);
    next.checkpoint_allowed(source.index.data());
    next.begin(kShape.id, kRoom, source.index.data());
    CHECK(pages.is_void());
    CHECK_FALSE(next.active());
  }
  SUBCASE("not where all was in the file and the WAL began anew") {
    source.begin_wal(kNextSalt);
    saver.end(source.index.data());
    CHECK_FALSE(pages.is_void());
    CHECK_FALSE(pages.announced().open);
  }
}

TEST_CASE_FIXTURE(Fixture, "what cannot be saved voids it, and stays announced as not ended") {
  saver.checkpoint_allowed(source.index.data());
  source.set_progress(0, 60);
  saver.begin(kShape.id, kRoom, source.index.data());
  SUBCASE("the file cannot be read") {
    saver.writing(0, kPageSize, [](std::uint64_t, std::span<std::uint8_t>) { return false; });
  }
  SUBCASE("not a page") {
    saver.writing(0, 512, source.reader(0));
  }
  SUBCASE("between pages") {
    saver.writing(512, kPageSize, source.reader(0));
  }
  saver.end(source.index.data());
  CHECK(pages.is_void());
  CHECK(pages.announced().open);
  CHECK_FALSE(saver.active());
}

TEST_CASE_FIXTURE(Fixture, "it takes the space of what is saved only") {
  struct stat st {};
  REQUIRE(::fstat(pages.fd(), &st) == 0);
  CHECK(st.st_size > kPageSize * 100);
  CHECK(st.st_blocks * 512 <= 16384);
  checkpoint(60, 50, 0);
  REQUIRE(::fstat(pages.fd(), &st) == 0);
  CHECK(st.st_blocks * 512 <= 32768);
}

TEST_CASE_FIXTURE(Fixture, "what is copied gives its space back, and is not saved again") {
  constexpr OldPages::Shape kLarge{9, 65536, 100};
  auto large = OldPages::create(directory, 0600, kLarge, {kSalt, 50});
  const Bytes image(65536, 1);
  for (std::uint32_t page = 1; page <= 20; ++page) large.save(page, image);
  struct stat before {};
  struct stat after {};
  REQUIRE(::fstat(large.fd(), &before) == 0);
  large.discard(1, 10);
  REQUIRE(::fstat(large.fd(), &after) == 0);
  CHECK(after.st_blocks * 512 == before.st_blocks * 512 - 10 * 65536);
  CHECK(large.saved(10, 1)[0] != 0);
  Bytes out(65536);
  large.read(11, out);
  CHECK(out == image);
}

TEST_CASE_FIXTURE(Fixture, "no more is saved than there is room for") {
  saver.checkpoint_allowed(source.index.data());
  source.set_progress(0, 60);
  const std::uint64_t room = pages.bytes() + 100 * std::uint64_t{kPageSize};
  saver.begin(kShape.id, room, source.index.data());
  const auto write = [&](std::uint32_t page) {
    saver.writing(std::uint64_t{page - 1} * kPageSize, kPageSize, source.reader(0));
  };
  for (std::uint32_t page = 10; page <= 80; ++page) write(page);
  CHECK(saver.active());
  CHECK(pages.bytes() <= room);
  CHECK_FALSE(pages.is_void());
  CHECK_FALSE(pages.outgrown());
  source.set_progress(60, 60);
  saver.end(source.index.data());

  saver.checkpoint_allowed(source.index.data());
  source.set_progress(60, 70);
  saver.begin(kShape.id, pages.bytes() + kPageSize, source.index.data());
  CHECK(saver.active());
  write(90);
  CHECK(saved(90));
  for (std::uint32_t page = 91; page <= 100; ++page) write(page);
  CHECK_FALSE(saver.active());
  CHECK(pages.is_void());
  CHECK(pages.outgrown());
  CHECK(pages.bytes() <= 8192);
  CHECK_FALSE(OldPages::open(directory, kShape.id));
}

TEST_CASE_FIXTURE(Fixture, "what outgrew its room is void, even where it cannot be removed") {
  checkpoint(60, 10, 0);
  pages.outgrow(folder.file("elsewhere"));
  struct stat st {};
  REQUIRE(::fstat(pages.fd(), &st) == 0);
  REQUIRE(st.st_nlink == 1);
  CHECK(pages.is_void());
  CHECK_FALSE(OldPages::open(directory, kShape.id));
}

TEST_CASE_FIXTURE(Fixture, "another snapshot replaces it") {
  const auto next = OldPages::create(directory, 0600, {8, kPageSize, 10}, {kSalt, 60});
  CHECK(pages.is_void());
  CHECK_FALSE(OldPages::open(directory, 7));
  const auto found = OldPages::open(directory, 8);
  REQUIRE(found);
  CHECK(found->shape().pages == 10);
  OldPages::remove(directory);
  CHECK(next.is_void());
  CHECK_FALSE(OldPages::open(directory, 8));
}

}  // namespace sqlstream::capture
