#include "capture/wal_index.h"

#include <array>
#include <atomic>
#include <bit>
#include <cstring>

namespace sqlstream::capture {
namespace {

constexpr std::uint32_t kVersion = 3007000;
constexpr std::size_t kHeaderWords = 12;             // one copy: 48 bytes
constexpr std::size_t kBackfill = 2 * kHeaderWords;  // behind both copies
constexpr std::size_t kBackfillAttempted = kBackfill + 8;
constexpr std::uint32_t kFirstRegionFrames = 4062;
constexpr std::uint32_t kRegionFrames = 4096;
constexpr std::uint32_t kFirstRegionOffset =
    34;  // words: behind both copies and the checkpoint info

using Words = std::array<std::uint32_t, kHeaderWords>;

// SQLite writes here at any time, in this process and in others; whoever reads validates what was
// read. The thread sanitizer, which does not see SQLite's barriers, would call it a race.
__attribute__((no_sanitize("thread"))) std::uint32_t load_word(const volatile void* region,
                                                               std::size_t index) {
  return static_cast<const volatile std::uint32_t*>(region)[index];
}

Words load_copy(const volatile void* region0, std::size_t copy) {
  Words words{};
  for (std::size_t i = 0; i < kHeaderWords; ++i)
    words[i] = load_word(region0, copy * kHeaderWords + i);
  return words;
}

// The salts are kept in the WAL's byte order, whatever the machine's.
std::uint32_t from_big_endian(std::uint32_t word) {
  return std::endian::native == std::endian::little ? __builtin_bswap32(word) : word;
}

}  // namespace

std::optional<WalIndexHeader> read_wal_index_header(const volatile void* region0) {
  // SQLite writes copy 1 first, then copy 0, with a barrier between: equal copies read in the other
  // order are one state.
  const Words first = load_copy(region0, 0);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const Words second = load_copy(region0, 1);
  if (first != second || first[0] != kVersion) return std::nullopt;
  std::array<std::uint8_t, 4> flags{};  // isInit, bigEndCksum, szPage
  std::memcpy(flags.data(), &first[3], 4);
  if (flags[0] == 0) return std::nullopt;
  const auto sum = wal::checksum({}, {reinterpret_cast<const std::uint8_t*>(first.data()), 40},
                                 std::endian::native == std::endian::big);
  if (sum[0] != first[10] || sum[1] != first[11]) return std::nullopt;

  std::uint16_t packed_size = 0;
  std::memcpy(&packed_size, flags.data() + 2, 2);
  WalIndexHeader header;
  header.change = first[2];
  header.page_size = (packed_size & 0xfe00U) + ((packed_size & 0x0001U) << 16);
  if (header.page_size != 0 && !wal::is_valid_page_size(header.page_size)) return std::nullopt;
  header.frames = first[4];
  header.pages = first[5];
  header.sum = {first[6], first[7]};
  header.salt = {from_big_endian(first[8]), from_big_endian(first[9])};
  return header;
}

std::uint32_t peek_change(const volatile void* region0) {
  return load_word(region0, 2);
}

std::uint32_t peek_frames(const volatile void* region0) {
  return load_word(region0, 4);
}

CheckpointProgress read_checkpoint_progress(const volatile void* region0) {
  return {load_word(region0, kBackfill), load_word(region0, kBackfillAttempted)};
}

std::size_t regions_for(std::uint32_t frames) {
  if (frames <= kFirstRegionFrames) return 1;
  return 1 + (frames - kFirstRegionFrames - 1) / kRegionFrames + 1;
}

std::uint32_t page_of_frame(const std::vector<const volatile void*>& regions, std::uint32_t frame) {
  if (frame <= kFirstRegionFrames) return load_word(regions[0], kFirstRegionOffset + frame - 1);
  const std::uint32_t rest = frame - kFirstRegionFrames - 1;
  return load_word(regions[1 + rest / kRegionFrames], rest % kRegionFrames);
}

bool is_unsealed(const wal::FrameHeader& frame) {
  return frame.salt == wal::Salt{} && frame.sum == wal::Checksum{};
}

bool is_of_wal(const wal::FrameHeader& frame, const WalIndexHeader& header) {
  return frame.salt == header.salt || is_unsealed(frame);
}

}  // namespace sqlstream::capture
