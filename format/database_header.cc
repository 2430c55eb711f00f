#include "format/database_header.h"

#include "base/bytes.h"
#include "format/wal.h"

namespace sqlstream {
namespace {

constexpr std::size_t kPageSizeAt = 16;
constexpr std::size_t kReadVersionAt = 19;
constexpr std::size_t kReservedAt = 20;
constexpr std::size_t kChangeCounterAt = 24;
constexpr std::size_t kPagesAt = 28;
constexpr std::size_t kPagesValidForAt = 92;
constexpr std::uint8_t kWalVersion = 2;

}  // namespace

DatabaseHeader decode_database_header(std::span<const std::uint8_t, DatabaseHeader::kSize> bytes) {
  DatabaseHeader header;
  const std::uint32_t packed = std::uint32_t{bytes[kPageSizeAt]} << 8 | bytes[kPageSizeAt + 1];
  const std::uint32_t page_size = packed == 1 ? 65536 : packed;
  if (wal::is_valid_page_size(page_size)) header.page_size = page_size;
  if (load_be32(&bytes[kChangeCounterAt]) == load_be32(&bytes[kPagesValidForAt])) {
    header.pages = load_be32(&bytes[kPagesAt]);
  }
  header.wal_mode = bytes[kReadVersionAt] == kWalVersion;
  header.reserved_bytes = bytes[kReservedAt] != 0;
  return header;
}

}  // namespace sqlstream
