#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "base/bytes.h"

/// SQLite's WAL format (https://sqlite.org/fileformat2.html, section 4). Pure: bytes in, bytes out.
namespace sqlstream::wal {

inline constexpr std::size_t kHeaderSize = 32;
inline constexpr std::size_t kFrameHeaderSize = 24;

/// True for 512, 1024, … 65536.
bool is_valid_page_size(std::uint32_t size);

/// The page that holds SQLite's lock bytes; never in a WAL.
constexpr std::uint32_t lock_byte_page(std::uint32_t page_size) {
  return 0x40000000u / page_size + 1;
}

using Salt = std::array<std::uint32_t, 2>;
using Checksum = std::array<std::uint32_t, 2>;

/// SQLite's running checksum over `data` (a multiple of 8 bytes), its words read big- or
/// little-endian.
Checksum checksum(Checksum seed, ByteView data, bool big_endian);

struct Header {
  bool big_endian_checksums = false;
  std::uint32_t page_size = 0;
  std::uint32_t checkpoint_sequence = 0;
  Salt salt{};
  Checksum sum{};  ///< of the first 24 bytes; the seed of the first frame
};

/// The header, or nothing when magic, version, page size or checksum are wrong or data < 32 bytes.
std::optional<Header> decode_header(ByteView data);
/// Writes 32 bytes; `header.sum` is computed and set.
void encode_header(Header& header, std::uint8_t* out);

struct FrameHeader {
  std::uint32_t page = 0;
  std::uint32_t commit_size = 0;  ///< database size in pages after a commit; 0 in other frames
  Salt salt{};
  Checksum sum{};
};

/// Decodes 24 bytes without checking anything. Precondition: data.size() >= 24.
FrameHeader decode_frame_header(ByteView data);

/// The running checksum after a frame: of its first 8 header bytes, then its page.
Checksum frame_checksum(Checksum seed, ByteView frame_header, ByteView page, bool big_endian);

/// Writes frames of one virtual WAL, little-endian checksums, in order.
class Encoder {
 public:
  /// A new WAL: the header is appended to `out`.
  Encoder(std::uint32_t page_size, Salt salt, std::uint32_t checkpoint_sequence, Bytes& out);
  /// Goes on behind frames already written: `sum` is the chain's checksum, `offset` the WAL's size.
  Encoder(std::uint32_t page_size, Salt salt, Checksum sum, std::uint64_t offset);

  /// Appends one frame. Precondition: page.size() == page_size, number != 0. `commit_size` is not 0
  /// exactly for a commit frame.
  void append(std::uint32_t number, std::uint32_t commit_size, ByteView page, Bytes& out);

  Checksum sum() const { return sum_; }
  std::uint64_t offset() const { return offset_; }
  Salt salt() const { return salt_; }
  std::uint32_t page_size() const { return page_size_; }

 private:
  std::uint32_t page_size_;
  Salt salt_;
  Checksum sum_{};
  std::uint64_t offset_ = 0;
};

/// Reads a WAL fed in pieces of any length; checks salts and the checksum chain of each frame.
/// Memory: at most one frame. Unusable after an Error.
class Decoder {
 public:
  struct Frame {
    std::uint32_t page;
    std::uint32_t commit_size;
    ByteView data;  ///< valid until the next call, and only while the input given is
  };

  /// Starts at offset 0, where the WAL header is expected.
  Decoder() = default;
  /// Starts behind a frame whose chain checksum and WAL header are known.
  Decoder(const Header& header, Checksum sum, std::uint64_t offset);

  /// Takes bytes from the front of `input` (shrinking it) until a frame is complete or input is
  /// empty. Throws Error on a wrong header, salt or checksum; the text says which, and the offset.
  std::optional<Frame> next(ByteView& input);

  /// Bytes taken so far, from the WAL's beginning.
  std::uint64_t offset() const { return offset_; }
  /// True between frames: nothing of a next one was taken.
  bool at_frame_boundary() const { return buffer_.empty() || delivered_; }
  const std::optional<Header>& header() const { return header_; }
  Checksum sum() const { return sum_; }

 private:
  std::optional<Header> header_;
  Checksum sum_{};
  std::uint64_t offset_ = 0;
  Bytes buffer_;            // what was taken of a header or frame split over inputs
  bool delivered_ = false;  // buffer_ holds the frame returned last
};

}  // namespace sqlstream::wal
