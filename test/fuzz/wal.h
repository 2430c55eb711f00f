#pragma once

#include <bit>
#include <cstring>

#include "format/wal.h"
#include "test/fuzz/input.h"

namespace sqlstream::fuzz {

/// Makes bytes a WAL that is right up to some frame: magic, version, page size, salts and
/// checksums are put in. A frame whose checksum begins with 0xff is left as it is.
inline void seal_wal(Bytes& wal) {
  if (wal.size() < wal::kHeaderSize) return;
  wal::Header header;
  header.big_endian_checksums = (wal[3] & 1) != 0;
  header.page_size = 512U << wal[11] % 8;
  header.checkpoint_sequence = load_be32(&wal[12]);
  header.salt = {load_be32(&wal[16]), load_be32(&wal[20])};
  wal::encode_header(header, wal.data());
  const std::size_t frame = wal::kFrameHeaderSize + header.page_size;
  wal::Checksum sum = header.sum;
  for (std::size_t at = wal::kHeaderSize; at + frame <= wal.size(); at += frame) {
    if (wal[at + 16] == 0xff) return;
    store_be32(&wal[at + 8], header.salt[0]);
    store_be32(&wal[at + 12], header.salt[1]);
    const ByteView whole = ByteView(wal).subspan(at, frame);
    sum = wal::frame_checksum(sum, whole.first(wal::kFrameHeaderSize),
                              whole.subspan(wal::kFrameHeaderSize), header.big_endian_checksums);
    store_be32(&wal[at + 16], sum[0]);
    store_be32(&wal[at + 20], sum[1]);
  }
}

/// Makes 96 bytes two equal copies of a wal-index header: by the bits of `how` with the right
/// version, as initialised, and with the right checksum.
inline void seal_wal_index(std::uint8_t* region, std::uint8_t how) {
  constexpr std::size_t kCopy = 48;
  if (how == 0) return;
  const std::uint32_t version = 3007000;
  if ((how & 1) != 0) std::memcpy(region, &version, sizeof version);
  if ((how & 2) != 0) region[12] |= 1;
  const auto sum = wal::checksum({}, {region, kCopy - 8}, std::endian::native == std::endian::big);
  if ((how & 4) != 0) std::memcpy(region + kCopy - 8, sum.data(), sizeof sum);
  std::memcpy(region + kCopy, region, kCopy);
}

}  // namespace sqlstream::fuzz
