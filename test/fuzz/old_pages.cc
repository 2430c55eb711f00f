// The file of saved pages and the wal-index, as another process left them, with which a checkpoint
// begins, writes and ends.

#include "capture/old_pages.h"

#include <array>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "test/fuzz/wal.h"

using namespace sqlstream;
using namespace sqlstream::capture;

namespace {

constexpr std::uint64_t kId = 7;
constexpr std::size_t kHeaderSize = 24;  // without its hash
constexpr std::size_t kAnnouncementAt = 512;
constexpr std::size_t kAnnouncementSize = 16;

void store_hash(Bytes& file, std::size_t at, std::size_t size) {
  const std::uint64_t hash = XXH3_64bits(&file[at], size);
  std::memcpy(&file[at + size], &hash, sizeof hash);
}

// doc/internals.md has the layout.
Bytes file_of(fuzz::Input& input, std::uint8_t flags) {
  const ByteView header = input.take(kHeaderSize);
  const ByteView announcement = input.take(kAnnouncementSize);
  const std::uint8_t copied = input.byte();
  Bytes file(4096 + 8);
  std::copy(header.begin(), header.end(), file.begin());
  std::copy(announcement.begin(), announcement.end(), file.begin() + kAnnouncementAt);
  file[1024] = copied;
  file[1536] = (flags & 1) != 0 ? 1 : 0;
  for (std::size_t page = 0; page < 8; ++page) file[4096 + page] = input.byte() & 1;
  if ((flags & 2) != 0) {
    std::memcpy(file.data(), "SOLDPAG1", 8);
    std::memcpy(&file[8], &kId, sizeof kId);
    store_hash(file, 0, kHeaderSize);
  }
  if ((flags & 4) != 0) store_hash(file, kAnnouncementAt, kAnnouncementSize);
  file.resize((flags & 8) != 0 ? file.size() : input.u16());
  return file;
}

void read_it() {
  const auto pages = OldPages::open(fuzz::folder(), kId);
  if (!pages) return;
  (void)pages->is_void();
  fuzz::require(pages->announced().open || pages->announced().covers({}));
  fuzz::require(pages->saved(1, 8).size() == 8);
  Bytes image(512);
  pages->read(std::max(pages->copied(), 1U), image);
}

void checkpoint(fuzz::Input& input, std::uint8_t* region) {
  PageSaver saver(fuzz::folder());
  const auto read_file = [&](std::uint64_t, std::span<std::uint8_t> out) {
    fuzz::require(out.size() <= 64U << 20);
    return input.byte() != 0xff;
  };
  if ((input.byte() & 1) == 0) saver.checkpoint_allowed(region);
  // Others change it meanwhile; 0xff: to what is none.
  const auto others = [&] {
    const std::uint8_t how = input.byte();
    if (how == 0xff) region[0] ^= 1;
    if ((how & 1) != 0) region[24 * 4] = input.byte();
    if ((how & 2) != 0) region[32 * 4] = input.byte();
    if ((how & 4) != 0) region[8 * 4] ^= 1;
    if (how != 0xff) fuzz::seal_wal_index(region, 7);
  };
  others();
  saver.begin(kId, input.u16(), region);
  for (std::uint8_t step = input.byte(); step != 0 && !input.empty(); step = input.byte()) {
    if ((step & 1) != 0) {
      const std::size_t size = 512U << step / 2 % 8;
      saver.writing(input.byte() * std::uint64_t{512}, size, read_file);
    } else {
      saver.truncating(input.number(5), read_file);
    }
  }
  others();
  saver.end(region);
  fuzz::require(!saver.active());
}

}  // namespace

FUZZ(data, size) {
  fuzz::Input input(data, size);
  const std::uint8_t flags = input.byte();
  const std::string path = fuzz::folder() + '/' + OldPages::kName;
  std::filesystem::remove_all(path);
  if ((flags & 16) != 0) {
    std::filesystem::create_directory(path);
  } else if ((flags & 32) == 0) {
    fuzz::write_file(path, file_of(input, flags));
  }
  alignas(8) std::array<std::uint8_t, kRegionSize> region{};
  const ByteView index = input.take(input.byte());
  std::copy(index.begin(), index.end(), region.begin());
  fuzz::seal_wal_index(region.data(), 7);
  try {
    read_it();
  } catch (const std::system_error&) {
  }
  checkpoint(input, region.data());
  return 0;
}
