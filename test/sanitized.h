#pragma once

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SQLSTREAM_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SQLSTREAM_SANITIZED 1
#endif
#endif

namespace sqlstream::testing {

/// The thread sanitizer ends a child of several threads that starts threads of its own; of the
/// address sanitizer's allocator a thread of the parent may have held the lock. The one for
/// undefined behaviour needs descriptors to look at an object's type.
#ifdef SQLSTREAM_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace sqlstream::testing
