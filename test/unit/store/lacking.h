#pragma once

#include <atomic>
#include <cstddef>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SQLSTREAM_OWN_NEW 0  // that sanitizer's own cannot be replaced
#endif
#endif
#ifndef SQLSTREAM_OWN_NEW
#define SQLSTREAM_OWN_NEW 1
#endif

namespace sqlstream::test {

/// False: there is always memory.
inline constexpr bool kMayLack = SQLSTREAM_OWN_NEW != 0;

/// There is no memory for an object of this size; 0: there is for all. Of the program that
/// lacking.cc is linked into.
extern std::atomic<std::size_t> lacking;

}  // namespace sqlstream::test
