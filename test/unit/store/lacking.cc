#include "test/unit/store/lacking.h"

#include <cstdlib>
#include <new>

namespace sqlstream::test {
std::atomic<std::size_t> lacking{0};
}

#if SQLSTREAM_OWN_NEW

void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return size != 0 && size == sqlstream::test::lacking ? nullptr : std::malloc(size);
}

void* operator new(std::size_t size) {
  void* memory = ::operator new(size, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void operator delete(void* memory) noexcept {
  std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

#endif
