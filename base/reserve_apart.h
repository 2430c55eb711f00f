#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace sqlstream {

/// Room for `count` elements in all; much room is a mapping of its own, which the C library gives
/// back to the system when it is freed. What it has mapped of less (mallopt(3), M_MMAP_THRESHOLD)
/// it keeps twice as much of afterwards, in the heap of each thread. Only what is written takes
/// memory, so more is asked for than is needed.
template <class T>
void reserve_apart(std::vector<T>& elements, std::size_t count) {
  constexpr std::size_t kMuch = 1 << 20;
  constexpr std::size_t kAlwaysMapped = 33 << 20;
  const bool much = count >= kMuch / sizeof(T);
  elements.reserve(much ? std::max(count, kAlwaysMapped / sizeof(T)) : count);
}

}  // namespace sqlstream
