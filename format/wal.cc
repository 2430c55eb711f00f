#include "format/wal.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <string>

#include "base/error.h"

namespace sqlstream::wal {
namespace {

constexpr std::uint32_t kMagic = 0x377f0682;  // the lowest bit set: big-endian checksums
constexpr std::uint32_t kVersion = 3007000;
constexpr std::size_t kHeaderChecked = 24;  // bytes of the WAL header under its checksum
constexpr std::size_t kFrameChecked = 8;    // bytes of a frame header under its checksum

// `data` is a whole number of 8-byte steps. Per step s1 += w0 + s2, s2 += w1 + s1: each new sum
// adds what is known early first, so that one addition per word remains in the dependency chain.
template <bool Swap>
Checksum sum_words(Checksum seed, ByteView data) {
  std::uint32_t s1 = seed[0];
  std::uint32_t s2 = seed[1];
  const std::uint8_t* p = data.data();
  const auto step = [&s1, &s2](const std::uint8_t* at) {
    std::uint64_t both = 0;
    std::memcpy(&both, at, 8);
    if constexpr (Swap) both = __builtin_bswap64(both);
    constexpr bool kFirstIsLow = (std::endian::native == std::endian::little) != Swap;
    const auto low = static_cast<std::uint32_t>(both);
    const auto high = static_cast<std::uint32_t>(both >> 32);
    s1 = (s1 + (kFirstIsLow ? low : high)) + s2;
    s2 = (s2 + (kFirstIsLow ? high : low)) + s1;
  };
  std::size_t left = data.size();
  for (; left >= 64; left -= 64, p += 64) {
    step(p);
    step(p + 8);
    step(p + 16);
    step(p + 24);
    step(p + 32);
    step(p + 40);
    step(p + 48);
    step(p + 56);
  }
  for (; left >= 8; left -= 8, p += 8) step(p);
  return {s1, s2};
}

[[noreturn]] void fail(std::uint64_t offset, const char* what) {
  throw Error("the WAL is damaged at offset " + std::to_string(offset) + ": " + what);
}

}  // namespace

bool is_valid_page_size(std::uint32_t size) {
  return size >= 512 && size <= 65536 && std::has_single_bit(size);
}

Checksum checksum(Checksum seed, ByteView data, bool big_endian) {
  assert(data.size() % 8 == 0);
  return big_endian == (std::endian::native == std::endian::big) ? sum_words<false>(seed, data)
                                                                 : sum_words<true>(seed, data);
}

std::optional<Header> decode_header(ByteView data) {
  if (data.size() < kHeaderSize) return std::nullopt;
  const std::uint8_t* p = data.data();
  const std::uint32_t magic = load_be32(p);
  if ((magic & ~1u) != kMagic || load_be32(p + 4) != kVersion) return std::nullopt;
  Header header;
  header.big_endian_checksums = (magic & 1) != 0;
  header.page_size = load_be32(p + 8);
  header.checkpoint_sequence = load_be32(p + 12);
  header.salt = {load_be32(p + 16), load_be32(p + 20)};
  header.sum = {load_be32(p + 24), load_be32(p + 28)};
  if (!is_valid_page_size(header.page_size)) return std::nullopt;
  if (checksum({}, data.first(kHeaderChecked), header.big_endian_checksums) != header.sum) {
    return std::nullopt;
  }
  return header;
}

void encode_header(Header& header, std::uint8_t* out) {
  store_be32(out, kMagic | (header.big_endian_checksums ? 1u : 0u));
  store_be32(out + 4, kVersion);
  store_be32(out + 8, header.page_size);
  store_be32(out + 12, header.checkpoint_sequence);
  store_be32(out + 16, header.salt[0]);
  store_be32(out + 20, header.salt[1]);
  header.sum = checksum({}, {out, kHeaderChecked}, header.big_endian_checksums);
  store_be32(out + 24, header.sum[0]);
  store_be32(out + 28, header.sum[1]);
}

FrameHeader decode_frame_header(ByteView data) {
  assert(data.size() >= kFrameHeaderSize);
  const std::uint8_t* p = data.data();
  return {load_be32(p),
          load_be32(p + 4),
          {load_be32(p + 8), load_be32(p + 12)},
          {load_be32(p + 16), load_be32(p + 20)}};
}

Checksum frame_checksum(Checksum seed, ByteView frame_header, ByteView page, bool big_endian) {
  return checksum(checksum(seed, frame_header.first(kFrameChecked), big_endian), page, big_endian);
}

Encoder::Encoder(std::uint32_t page_size, Salt salt, std::uint32_t checkpoint_sequence, Bytes& out)
    : page_size_(page_size), salt_(salt), offset_(kHeaderSize) {
  assert(is_valid_page_size(page_size));
  Header header{.page_size = page_size, .checkpoint_sequence = checkpoint_sequence, .salt = salt};
  const std::size_t at = out.size();
  out.resize(at + kHeaderSize);
  encode_header(header, out.data() + at);
  sum_ = header.sum;
}

Encoder::Encoder(std::uint32_t page_size, Salt salt, Checksum sum, std::uint64_t offset)
    : page_size_(page_size), salt_(salt), sum_(sum), offset_(offset) {
  assert(is_valid_page_size(page_size));
}

void Encoder::append(std::uint32_t number, std::uint32_t commit_size, ByteView page, Bytes& out) {
  assert(page.size() == page_size_ && number != 0);
  std::array<std::uint8_t, kFrameHeaderSize> head;
  store_be32(head.data(), number);
  store_be32(head.data() + 4, commit_size);
  store_be32(head.data() + 8, salt_[0]);
  store_be32(head.data() + 12, salt_[1]);
  sum_ = frame_checksum(sum_, head, page, false);
  store_be32(head.data() + 16, sum_[0]);
  store_be32(head.data() + 20, sum_[1]);
  out.insert(out.end(), head.begin(), head.end());
  out.insert(out.end(), page.begin(), page.end());
  offset_ += kFrameHeaderSize + page.size();
}

Decoder::Decoder(const Header& header, Checksum sum, std::uint64_t offset)
    : header_(header), sum_(sum), offset_(offset) {}

std::optional<Decoder::Frame> Decoder::next(ByteView& input) {
  if (delivered_) {
    buffer_.clear();
    delivered_ = false;
  }
  // Takes `size` bytes as one piece: straight from the input where it is whole there.
  const auto take = [&](std::size_t size) -> std::optional<ByteView> {
    if (buffer_.empty() && input.size() >= size) {
      const ByteView whole = input.first(size);
      input = input.subspan(size);
      offset_ += size;
      return whole;
    }
    const std::size_t n = std::min(size - buffer_.size(), input.size());
    buffer_.insert(buffer_.end(), input.begin(), input.begin() + static_cast<std::ptrdiff_t>(n));
    input = input.subspan(n);
    offset_ += n;
    if (buffer_.size() < size) return std::nullopt;
    delivered_ = true;
    return ByteView(buffer_);
  };

  if (!header_) {
    const auto bytes = take(kHeaderSize);
    if (!bytes) return std::nullopt;
    header_ = decode_header(*bytes);
    if (!header_) fail(0, "no valid WAL header");
    sum_ = header_->sum;
    buffer_.clear();
    delivered_ = false;
  }

  const auto bytes = take(kFrameHeaderSize + header_->page_size);
  if (!bytes) return std::nullopt;
  const std::uint64_t start = offset_ - bytes->size();
  const FrameHeader head = decode_frame_header(*bytes);
  const ByteView page = bytes->subspan(kFrameHeaderSize);
  if (head.salt != header_->salt) fail(start, "a frame with a wrong salt");
  sum_ = frame_checksum(sum_, *bytes, page, header_->big_endian_checksums);
  if (head.sum != sum_) fail(start, "a frame with a wrong checksum");
  if (head.page == 0) fail(start, "a frame for page 0");
  return Frame{head.page, head.commit_size, page};
}

}  // namespace sqlstream::wal
