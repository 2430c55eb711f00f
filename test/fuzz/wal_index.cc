// The wal-index, which any process that may write the database can fill with anything.

#include "capture/wal_index.h"

#include <array>
#include <memory>
#include <vector>

#include "test/fuzz/wal.h"

using namespace sqlstream;
using namespace sqlstream::capture;

namespace {

constexpr std::size_t kMostRegions = 4;

}  // namespace

FUZZ(data, size) {
  fuzz::Input input(data, size);
  const std::uint8_t seal = input.byte();
  // Each of its own, so that a step beyond one is seen.
  std::vector<std::unique_ptr<std::uint32_t[]>> memory;
  std::vector<const volatile void*> regions;
  for (std::size_t i = 0; i < kMostRegions; ++i) {
    memory.push_back(std::make_unique<std::uint32_t[]>(kRegionSize / sizeof(std::uint32_t)));
    regions.push_back(memory.back().get());
  }
  auto* region = reinterpret_cast<std::uint8_t*>(memory[0].get());
  const ByteView content = input.rest();
  std::copy_n(content.begin(), std::min<std::size_t>(content.size(), kRegionSize), region);
  fuzz::seal_wal_index(region, seal);

  (void)peek_change(region);
  (void)peek_frames(region);
  (void)read_checkpoint_progress(region);
  const auto header = read_wal_index_header(region);
  if (!header) return 0;
  fuzz::require(header->page_size == 0 || wal::is_valid_page_size(header->page_size));
  // The regions must hold the frame, and not one too many of them be asked for.
  const std::uint64_t needed = regions_for(header->frames);
  fuzz::require(4062 + (needed - 1) * 4096 >= header->frames);
  fuzz::require(needed == 1 || 4062 + (needed - 2) * 4096 < header->frames);
  if (needed > kMostRegions) return 0;
  regions.resize(needed);
  for (std::uint32_t frame = 1; frame <= header->frames; frame += 61) {
    (void)page_of_frame(regions, frame);
  }
  if (header->frames > 0) (void)page_of_frame(regions, header->frames);
  return 0;
}
