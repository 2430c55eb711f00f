#include "test/unit/format/lz4_memory.h"

namespace sqlstream::test {
std::atomic<std::size_t> lz4_lacks{kLz4LacksNothing};
}

// What is linked statically calls these in place of libc's: liblz4, but not operator new.
extern "C" {

void* __real_malloc(std::size_t size);
void* __real_calloc(std::size_t count, std::size_t size);

void* __wrap_malloc(std::size_t size) {
  return size >= sqlstream::test::lz4_lacks ? nullptr : __real_malloc(size);
}

void* __wrap_calloc(std::size_t count, std::size_t size) {
  return count * size >= sqlstream::test::lz4_lacks ? nullptr : __real_calloc(count, size);
}
}
