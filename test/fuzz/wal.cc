// WALs, in one piece and in many: both must give the same frames.

#include "format/wal.h"

#include "base/error.h"
#include "test/fuzz/input.h"
#include "test/fuzz/wal.h"

using namespace sqlstream;

namespace {

struct Decoded {
  std::vector<std::uint8_t> frames;  // encoded anew, behind a header
  std::uint64_t offset = 0;
  bool refused = false;
  bool operator==(const Decoded&) const = default;
};

void decode_all(wal::Decoder& decoder, std::optional<wal::Encoder>& encoder, Decoded& decoded,
                ByteView input) {
  while (const auto frame = decoder.next(input)) {
    const wal::Header& header = *decoder.header();
    if (!encoder) {
      encoder.emplace(header.page_size, header.salt, header.checkpoint_sequence, decoded.frames);
    }
    encoder->append(frame->page, frame->commit_size, frame->data, decoded.frames);
    if (!header.big_endian_checksums) fuzz::require(encoder->sum() == decoder.sum());
    fuzz::require(decoder.at_frame_boundary() && encoder->offset() == decoder.offset());
  }
  fuzz::require(input.empty());
}

Decoded decode(ByteView data, std::optional<std::uint8_t> pieces) {
  Decoded decoded;
  wal::Decoder decoder;
  std::optional<wal::Encoder> encoder;
  try {
    if (pieces) {
      fuzz::in_pieces(data, *pieces,
                      [&](ByteView piece) { decode_all(decoder, encoder, decoded, piece); });
    } else {
      decode_all(decoder, encoder, decoded, data);
    }
  } catch (const Error&) {
    decoded.refused = true;
  }
  decoded.offset = decoded.refused ? 0 : decoder.offset();
  return decoded;
}

}  // namespace

FUZZ(data, size) {
  fuzz::Input input(data, size);
  const std::uint8_t flags = input.byte();
  Bytes wal(input.rest().begin(), input.rest().end());
  if ((flags & 1) != 0) fuzz::seal_wal(wal);
  const Decoded whole = decode(wal, std::nullopt);
  fuzz::require(whole == decode(wal, flags));
  if (!whole.refused) fuzz::require(whole.offset == wal.size());

  // A decoder that is begun behind the first frame goes on as one from the beginning does.
  const auto header = wal::decode_header(wal);
  if (!header || whole.frames.size() < wal::kHeaderSize) return 0;
  const std::size_t frame = wal::kFrameHeaderSize + header->page_size;
  const auto first = wal::decode_frame_header(ByteView(wal).subspan(wal::kHeaderSize));
  wal::Decoder rest(*header, first.sum, wal::kHeaderSize + frame);
  ByteView behind = ByteView(wal).subspan(wal::kHeaderSize + frame);
  std::size_t frames = 1;
  try {
    while (rest.next(behind)) ++frames;
  } catch (const Error&) {
    fuzz::require(whole.refused);
  }
  fuzz::require(whole.frames.size() == wal::kHeaderSize + frames * frame);
  return 0;
}
