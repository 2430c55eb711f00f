#include "format/lz4_frame.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <new>
#include <string>
#include <utility>

#define LZ4F_STATIC_LINKING_ONLY  // for LZ4F_getErrorCode()
#include <lz4frame.h>

#include "base/error.h"

namespace sqlstream::lz4 {
namespace {

// Input is handed over in pieces of this size, which is also the block size: the writer's and the
// reader's memory is a few blocks.
constexpr std::size_t kPiece = 256 * 1024;
constexpr std::size_t kMagicSize = 4;
constexpr std::size_t kSkippableHeaderSize = 8;
constexpr std::uint32_t kSkippableMagic = 0x184D2A50;  // the first of sixteen
constexpr std::uint32_t kDataMagic = 0x184D2204;
constexpr std::uint32_t kAgeMagic = 0x2D656761;  // "age-", as in "age-encryption.org/v1"
constexpr std::size_t kBlockSizeAt = 5;          // of a data frame; behind the magic and flags
constexpr std::size_t kLargestPayload = 64 * 1024;

std::uint32_t load_le32(const std::uint8_t* p) {
  return std::uint32_t{p[3]} << 24 | std::uint32_t{p[2]} << 16 | std::uint32_t{p[1]} << 8 | p[0];
}

void append_le32(Bytes& out, std::uint32_t v) {
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<std::uint8_t>(v >> shift));
}

LZ4F_preferences_t preferences(Effort effort, std::uint64_t size) {
  LZ4F_preferences_t p = LZ4F_INIT_PREFERENCES;
  // Room for a block is cleared for each frame.
  p.frameInfo.blockSizeID = size <= (64 << 10) ? LZ4F_max64KB : LZ4F_max256KB;
  // Not every reader of the layout can decode linked blocks.
  p.frameInfo.blockMode = LZ4F_blockIndependent;
  p.frameInfo.contentChecksumFlag = LZ4F_contentChecksumEnabled;
  if (effort == Effort::high) p.compressionLevel = 3;
  return p;
}

// Says nothing of the data.
void check_memory(std::size_t result) {
  if (LZ4F_getErrorCode(result) == LZ4F_ERROR_allocation_failed) throw std::bad_alloc();
}

// The only failures of the writing side are a lack of memory and wrong use.
std::size_t check_written(std::size_t result) {
  check_memory(result);
  if (LZ4F_isError(result)) {
    throw Error(std::string("cannot compress with LZ4: ") + LZ4F_getErrorName(result));
  }
  return result;
}

// That of the Compressor that ended last, for the next one: for high compression it has tables of a
// quarter of a MiB, which take longer to clear than most segments to compress.
std::atomic<LZ4F_cctx*> spare_context{nullptr};

struct KeepCompression {
  void operator()(LZ4F_cctx* context) const {
    LZ4F_freeCompressionContext(spare_context.exchange(context));
  }
};
struct FreeDecompression {
  void operator()(LZ4F_dctx* context) const { LZ4F_freeDecompressionContext(context); }
};

}  // namespace

struct Compressor::Impl {
  std::unique_ptr<LZ4F_cctx, KeepCompression> context{spare_context.exchange(nullptr)};
  LZ4F_preferences_t prefs;
  std::size_t capacity =
      std::max<std::size_t>(LZ4F_compressBound(kPiece, &prefs), std::size_t{LZ4F_HEADER_SIZE_MAX});
  std::unique_ptr<std::uint8_t[]> buffer = std::make_unique_for_overwrite<std::uint8_t[]>(capacity);
  bool begun = false;

  Impl(Effort effort, std::uint64_t size) : prefs(preferences(effort, size)) {
    if (context) return;
    LZ4F_cctx* raw = nullptr;
    if (LZ4F_isError(LZ4F_createCompressionContext(&raw, LZ4F_VERSION))) throw std::bad_alloc();
    context.reset(raw);
  }

  void append(std::size_t result, Bytes& out) {
    // Where it lacked memory, liblz4 takes it for having what it has not.
    if (LZ4F_isError(result)) LZ4F_freeCompressionContext(context.release());
    const std::size_t n = check_written(result);
    out.insert(out.end(), buffer.get(), buffer.get() + n);
  }

  void begin(Bytes& out) {
    if (begun) return;
    append(LZ4F_compressBegin(context.get(), buffer.get(), capacity, &prefs), out);
    begun = true;
  }
};

Compressor::Compressor(Effort effort, std::uint64_t size)
    : impl_(std::make_unique<Impl>(effort, size)) {}
Compressor::~Compressor() = default;
Compressor::Compressor(Compressor&&) noexcept = default;
Compressor& Compressor::operator=(Compressor&&) noexcept = default;

void Compressor::write(ByteView data, Bytes& out) {
  impl_->begin(out);
  while (!data.empty()) {
    const ByteView piece = data.first(std::min(data.size(), kPiece));
    impl_->append(LZ4F_compressUpdate(impl_->context.get(), impl_->buffer.get(), impl_->capacity,
                                      piece.data(), piece.size(), nullptr),
                  out);
    data = data.subspan(piece.size());
  }
}

void Compressor::finish(Bytes& out) {
  impl_->begin(out);
  impl_->append(
      LZ4F_compressEnd(impl_->context.get(), impl_->buffer.get(), impl_->capacity, nullptr), out);
}

struct Decompressor::Impl {
  std::unique_ptr<LZ4F_dctx, FreeDecompression> context;
  std::unique_ptr<std::uint8_t[]> buffer;  // where nobody else's is used
  std::size_t largest_block;
  // The first bytes of a frame are collected here, to tell data frames from skippable ones, and how
  // large their blocks are.
  std::array<std::uint8_t, kBlockSizeAt + 1> head{};
  std::size_t head_size = 0;
  bool in_frame = false;
  bool any_data_frame = false;

  explicit Impl(std::size_t largest) : largest_block(largest) {
    LZ4F_dctx* raw = nullptr;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&raw, LZ4F_VERSION))) throw std::bad_alloc();
    context.reset(raw);
  }

  // False: it takes more bytes to tell what frame begins.
  bool head_complete() {
    if (head_size < kMagicSize) return false;
    const std::uint32_t magic = load_le32(head.data());
    if ((magic & ~0xfu) == kSkippableMagic) return true;
    if (magic == kAgeMagic)
      throw EncryptedError("is encrypted with age; restore it with litestream");
    any_data_frame = true;
    if (magic != kDataMagic) return true;  // which is refused when it is decoded
    if (head_size < head.size()) return false;
    const std::size_t block = std::size_t{1} << (8 + 2 * (head[kBlockSizeAt] >> 4 & 7));
    if (block > largest_block) {
      throw Error("the LZ4 data has blocks of " + std::to_string(block) + " bytes, not of " +
                  std::to_string(largest_block) + " at most");
    }
    return true;
  }

  // Decodes until `data` is used up or the frame ends.
  void decode(ByteView& data, std::span<std::uint8_t> room, const Output& output) {
    std::size_t produced = 0;
    do {
      std::size_t consumed = data.size();
      produced = room.size();
      const std::size_t hint =
          LZ4F_decompress(context.get(), room.data(), &produced, data.data(), &consumed, nullptr);
      check_memory(hint);
      if (LZ4F_isError(hint)) {
        throw Error(std::string("the LZ4 data is damaged (") + LZ4F_getErrorName(hint) + ")");
      }
      data = data.subspan(consumed);
      if (produced > 0) output(room.first(produced));
      if (hint == 0) {
        in_frame = false;
        return;
      }
    } while (!data.empty() || produced == room.size());
  }
};

Decompressor::Decompressor(std::size_t largest_block)
    : impl_(std::make_unique<Impl>(largest_block)) {}
Decompressor::~Decompressor() = default;
Decompressor::Decompressor(Decompressor&&) noexcept = default;
Decompressor& Decompressor::operator=(Decompressor&&) noexcept = default;

void Decompressor::write(ByteView data, const Output& output) {
  auto& buffer = impl_->buffer;
  if (!buffer) buffer = std::make_unique_for_overwrite<std::uint8_t[]>(kPiece);
  write(data, {buffer.get(), kPiece}, output);
}

void Decompressor::write(ByteView data, std::span<std::uint8_t> room, const Output& output) {
  while (!data.empty()) {
    if (impl_->in_frame) {
      impl_->decode(data, room, output);
      continue;
    }
    impl_->head[impl_->head_size++] = data.front();
    data = data.subspan(1);
    if (!impl_->head_complete()) continue;
    ByteView head = ByteView(impl_->head).first(std::exchange(impl_->head_size, 0));
    impl_->in_frame = true;
    impl_->decode(head, room, output);
  }
}

void Decompressor::finish() {
  if (impl_->in_frame || impl_->head_size != 0) {
    throw Error("the LZ4 data ends before its end mark: it was cut short");
  }
  if (!impl_->any_data_frame) throw Error("there is no LZ4 data frame in it");
}

Bytes skippable_frame(ByteView payload) {
  Bytes frame;
  frame.reserve(kSkippableHeaderSize + payload.size());
  append_le32(frame, kSkippableMagic);
  append_le32(frame, static_cast<std::uint32_t>(payload.size()));
  frame.insert(frame.end(), payload.begin(), payload.end());
  return frame;
}

std::optional<ByteView> parse_skippable_frame(ByteView data) {
  if (data.size() < kSkippableHeaderSize || load_le32(data.data()) != kSkippableMagic) {
    return std::nullopt;
  }
  const std::size_t size = load_le32(data.data() + 4);
  if (size > kLargestPayload || size > data.size() - kSkippableHeaderSize) return std::nullopt;
  return data.subspan(kSkippableHeaderSize, size);
}

}  // namespace sqlstream::lz4
