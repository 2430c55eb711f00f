#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace sqlstream::test {

/// liblz4 gets no memory for so many bytes at once, or more. Of a program that lz4_memory.cc is
/// linked into, with lz4_memory_link_args.
extern std::atomic<std::size_t> lz4_lacks;

constexpr std::size_t kLz4LacksNothing = SIZE_MAX;

}  // namespace sqlstream::test
