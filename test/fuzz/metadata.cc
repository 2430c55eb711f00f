// The metadata in front of an object: as it is, and with a right checksum around any text.

#define XXH_INLINE_ALL
#include "format/metadata.h"

#include <xxhash.h>

#include "base/error.h"
#include "format/hex.h"
#include "format/lz4_frame.h"
#include "test/fuzz/input.h"

using namespace sqlstream;

namespace {

std::optional<Metadata> decode(ByteView head) {
  try {
    return decode_metadata(head);
  } catch (const Error&) {
    return std::nullopt;
  }
}

Bytes sealed(std::string text) {
  const std::uint64_t sum = XXH3_64bits(text.data(), text.size());
  text.append(",\"sum\":\"").append(to_hex(sum, 16)).append("\"}");
  return lz4::skippable_frame(as_bytes(text));
}

}  // namespace

FUZZ(data, size) {
  const ByteView bytes(data, size);
  (void)decode(bytes);
  for (const char* begin : {"", "{\"sqlstream\":1,\"kind\":\"segment\""}) {
    const auto metadata = decode(sealed(std::string(begin).append(as_text(bytes))));
    if (!metadata) continue;
    // What was read is written so that it reads the same.
    const Bytes written = encode_metadata(*metadata);
    const auto again = decode(written);
    fuzz::require(again && encode_metadata(*again) == written);
    fuzz::require(written.size() <= 1024);
    fuzz::require(again->last_commit == metadata->last_commit && again->chain == metadata->chain);
    fuzz::require(again->after == metadata->after);
  }
  return 0;
}
