#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/bytes.h"
#include "base/error.h"

/// The LZ4 frame format (https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md) through
/// liblz4.
namespace sqlstream::lz4 {

/// Of pages, LZ4's high compression (level 3) makes about a fifth less, for six times the time: 20
/// ms of CPU a MiB, rather than 3. What decodes it sees no difference.
enum class Effort { fast, high };

/// Streams one data frame with content checksum. Not thread-safe; may move between threads.
class Compressor {
 public:
  /// For at most `size` bytes of content: a little is compressed with less room.
  explicit Compressor(Effort effort = Effort::fast, std::uint64_t size = UINT64_MAX);
  ~Compressor();
  Compressor(Compressor&&) noexcept;
  Compressor& operator=(Compressor&&) noexcept;
  /// Appends compressed bytes (perhaps none yet) to `out`.
  void write(ByteView data, Bytes& out);
  /// Ends the frame. Nothing may be written after it.
  void finish(Bytes& out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What is to be decoded is no LZ4, since it is encrypted.
class EncryptedError : public Error {
 public:
  using Error::Error;
};

/// Decodes a stream of frames (skippable ones are skipped, concatenated ones follow one another).
class Decompressor {
 public:
  using Output = std::function<void(ByteView)>;
  /// Refuses blocks of more than `largest_block` bytes: memory is up to two of them.
  explicit Decompressor(std::size_t largest_block = 4 << 20);
  ~Decompressor();
  Decompressor(Decompressor&&) noexcept;
  Decompressor& operator=(Decompressor&&) noexcept;
  /// Decodes all of `data`, calling `output` with pieces of at most 256 KiB. Throws Error on damage
  /// (a bad checksum included). Memory is bounded whatever the input claims.
  void write(ByteView data, const Output& output);
  /// The pieces lie in `room`, at most as long as it is: where many streams are decoded in turn,
  /// they need not each have their own.
  void write(ByteView data, std::span<std::uint8_t> room, const Output& output);
  /// Throws Error unless the input ended exactly at the end of at least one data frame.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// One skippable frame, magic 0x184D2A50, around `payload`.
Bytes skippable_frame(ByteView payload);
/// The payload of a skippable frame that `data` begins with, if it is whole and <= 64 KiB.
std::optional<ByteView> parse_skippable_frame(ByteView data);

}  // namespace sqlstream::lz4
