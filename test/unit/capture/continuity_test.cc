// What continues a generation, decided without files. test/model goes through the rest.

#include "capture/continuity.h"

#include <doctest/doctest.h>

using namespace sqlstream;
using namespace sqlstream::capture;

namespace {

/// A WAL of which nothing may be asked.
struct NoWal final : WalEvidence {
  std::optional<wal::FrameHeader> frame(std::uint32_t) const override { return std::nullopt; }
  std::optional<std::uint32_t> commits() const override { return std::nullopt; }
};

Known captured_two_frames() {
  Known known;
  known.last.page_size = 4096;
  known.last.source = known.source = {{7, 8}, 2, 5, {11, 12}};
  return known;
}

}  // namespace

TEST_CASE("A WAL of another page size continues nothing, whatever else agrees") {
  const FileIdentity file{1, 2, 4096, 3, 3};
  Known known = captured_two_frames();
  known.last.identity = file;
  WalIndexHeader header;
  header.frames = 1;
  header.page_size = 4096;
  CHECK(prove_continuity(known, header, file, NoWal()).first == 1U);
  header.page_size = 1024;
  CHECK_FALSE(prove_continuity(known, header, file, NoWal()).first);
}

TEST_CASE("A reset without a commit is proven by the checksum that the header kept") {
  const FileIdentity file{1, 2, 4096, 3, 3};
  const Known known = captured_two_frames();
  WalIndexHeader header;
  header.salt = {8, 99};
  header.change = 0;  // the wal-index was built anew since
  header.sum = {11, 12};
  CHECK(prove_continuity(known, header, file, NoWal()).first == 1U);
  header.sum = {11, 13};
  CHECK_FALSE(prove_continuity(known, header, file, NoWal()).first);
}

TEST_CASE("Before any frame, iChange counts within one lifetime of the wal-index only") {
  const FileIdentity file{1, 2, 4096, 3, 3};
  Known known;
  WalIndexHeader header;
  header.salt = {8, 99};
  CHECK_FALSE(prove_continuity(known, header, file, NoWal()).first);
  known.anchored = true;
  CHECK(prove_continuity(known, header, file, NoWal()).first == 1U);
  header.change = 1;
  CHECK_FALSE(prove_continuity(known, header, file, NoWal()).first);
}

TEST_CASE("Behind a frame without salts and checksum only one lifetime's iChange proves anything") {
  struct Unsealed final : WalEvidence {
    std::optional<wal::FrameHeader> frame(std::uint32_t) const override {
      return wal::FrameHeader{.page = 1};
    }
    std::optional<std::uint32_t> commits() const override { return std::nullopt; }
  };
  Known known = captured_two_frames();
  known.last.source.sum = known.source.sum = {};
  WalIndexHeader header;
  header.page_size = 4096;
  header.salt = {7, 8};
  header.frames = 4;
  header.change = 6;
  CHECK_FALSE(prove_continuity(known, header, {}, Unsealed()).first);
  known.anchored = true;
  CHECK(prove_continuity(known, header, {}, Unsealed()).first == 3U);
  header.change = 7;
  CHECK(prove_continuity(known, header, {}, Unsealed()).first == 3U);
  // A recovery's counter began anew, and those frames with it.
  for (const std::uint32_t change : {5U, 4U, 8U}) {
    header.change = change;
    CHECK_FALSE(prove_continuity(known, header, {}, Unsealed()).first);
  }
  header.frames = 2;
  CHECK_FALSE(prove_continuity(known, header, {}, Unsealed()).first);
  header.change = 5;
  CHECK(prove_continuity(known, header, {}, Unsealed()).first == 3U);
  // No two commits without a checksum are the same for that.
  CHECK_FALSE(is_unchanged(known.source, header));
  // Nor is one behind which the WAL was reset told by a checksum.
  header.frames = 0;
  header.salt = {8, 9};
  CHECK(prove_continuity(known, header, {}, Unsealed()).first == 1U);
  known.anchored = false;
  CHECK_FALSE(prove_continuity(known, header, {}, Unsealed()).first);
}
