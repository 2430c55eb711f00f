#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>

#include "base/bytes.h"

namespace sqlstream::test {

/// Random numbers of one test. The seed is printed; SQLSTREAM_TEST_SEED in the environment repeats
/// a run.
class Random {
 public:
  explicit Random(const char* test) : engine_(seed(test)) {}

  /// In [least, most].
  std::uint32_t between(std::uint32_t least, std::uint32_t most) {
    return std::uniform_int_distribution<std::uint32_t>(least, most)(engine_);
  }
  bool one_in(std::uint32_t n) { return between(1, n) == 1; }
  std::uint32_t word() { return static_cast<std::uint32_t>(engine_()); }

  Bytes bytes(std::size_t size) {
    Bytes bytes(size);
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(engine_());
    return bytes;
  }

  /// Takes a piece of random length, at least one byte, off a view that is not empty.
  ByteView take_piece(ByteView& data, std::uint32_t largest) {
    const std::size_t size = std::min<std::size_t>(between(1, largest), data.size());
    const ByteView piece = data.first(size);
    data = data.subspan(size);
    return piece;
  }

  std::mt19937_64& engine() { return engine_; }

 private:
  static std::uint64_t seed(const char* test) {
    const char* given = std::getenv("SQLSTREAM_TEST_SEED");
    const std::uint64_t value =
        given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::cout << test << ": SQLSTREAM_TEST_SEED=" << value << std::endl;
    return value;
  }

  std::mt19937_64 engine_;
};

}  // namespace sqlstream::test
