#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <unistd.h>

#include "base/bytes.h"

/// What the fuzz targets share. A target calls LLVMFuzzerTestOneInput's code with any bytes; Error
/// is the right answer to nonsense, everything else that ends it is a finding.
namespace sqlstream::fuzz {

/// Takes an input apart from its front; behind its end all is zero or empty.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  bool empty() const { return rest_.empty(); }
  ByteView rest() const { return rest_; }

  ByteView take(std::size_t size) {
    const ByteView taken = rest_.first(std::min(size, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t value = 0;
    for (const std::uint8_t byte : take(bytes)) value = value << 8 | byte;
    return value;
  }
  std::uint8_t byte() { return static_cast<std::uint8_t>(number(1)); }
  std::uint16_t u16() { return static_cast<std::uint16_t>(number(2)); }
  std::uint32_t u32() { return static_cast<std::uint32_t>(number(4)); }

 private:
  ByteView rest_;
};

/// What must hold whatever the input. A finding when it does not.
inline void require(bool holds) {
  if (!holds) std::abort();
}

/// Calls `give` with `data` in pieces of uneven lengths that `seed` decides.
template <class Give>
void in_pieces(ByteView data, std::uint8_t seed, Give give) {
  for (std::size_t step = seed; !data.empty(); step = step * 7 + 3) {
    const ByteView piece = data.first(std::min(data.size(), step % 97 + 1));
    give(piece);
    data = data.subspan(piece.size());
  }
}

/// A folder of this process, made once, below TMPDIR; whoever runs the target removes that.
inline const std::string& folder() {
  static const std::string path = [] {
    const auto made =
        std::filesystem::temp_directory_path() / ("sqlstream-fuzz-" + std::to_string(::getpid()));
    std::filesystem::create_directories(made);
    return made.string();
  }();
  return path;
}

inline void write_file(const std::string& path, ByteView data) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
}

}  // namespace sqlstream::fuzz

/// A target: `FUZZ(data, size) { … }`.
#define FUZZ(data, size)                                                        \
  extern "C" __attribute__((visibility("default"))) int LLVMFuzzerTestOneInput( \
      const std::uint8_t* data, std::size_t size)
