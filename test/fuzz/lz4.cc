// LZ4 streams as a bucket may hold them: damaged, hostile, and whole ones of our own.

#include <optional>

#include "base/error.h"
#include "format/lz4_frame.h"
#include "test/fuzz/input.h"

namespace sqlstream::fuzz {
namespace {

constexpr std::size_t kLargestPiece = 256 << 10;

// Empty when the stream was refused.
std::optional<Bytes> decode(ByteView stream, std::optional<std::uint8_t> pieces,
                            std::size_t largest_block = 4 << 20) {
  Bytes all;
  lz4::Decompressor decompressor(largest_block);
  const auto keep = [&all](ByteView piece) {
    require(!piece.empty() && piece.size() <= kLargestPiece);
    all.insert(all.end(), piece.begin(), piece.end());
  };
  try {
    if (pieces) {
      in_pieces(stream, *pieces, [&](ByteView piece) { decompressor.write(piece, keep); });
    } else {
      decompressor.write(stream, keep);
    }
    decompressor.finish();
  } catch (const Error&) {
    return std::nullopt;
  }
  return all;
}

Bytes encode(ByteView data, std::uint8_t pieces) {
  Bytes stream;
  lz4::Compressor compressor;
  in_pieces(data, pieces, [&](ByteView piece) { compressor.write(piece, stream); });
  compressor.finish(stream);
  return stream;
}

}  // namespace
}  // namespace sqlstream::fuzz

using namespace sqlstream;

FUZZ(data, size) {
  fuzz::Input input(data, size);
  const std::uint8_t pieces = input.byte();
  const ByteView stream = input.rest();
  const auto decoded = fuzz::decode(stream, std::nullopt);
  fuzz::require(decoded == fuzz::decode(stream, pieces));
  const auto of_small_blocks = fuzz::decode(stream, pieces, 64 << 10);
  fuzz::require(!of_small_blocks || of_small_blocks == decoded);

  Bytes whole = lz4::skippable_frame(stream.first(stream.size() / 2));
  fuzz::require(lz4::parse_skippable_frame(whole)->size() == stream.size() / 2);
  const Bytes frame = fuzz::encode(stream, pieces);
  whole.insert(whole.end(), frame.begin(), frame.end());
  fuzz::require(fuzz::decode(whole, pieces) == Bytes(stream.begin(), stream.end()));
  (void)lz4::parse_skippable_frame(stream);
  return 0;
}
