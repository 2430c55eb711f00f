// pthread_create() in the place of libc's, which does the work.

#include "thread_limit.h"

#include <atomic>
#include <cerrno>
#include <climits>
#include <dlfcn.h>
#include <pthread.h>

namespace {

std::atomic<int> left{INT_MAX};

}  // namespace

void sqlstream::testing::limit_threads(int more) {
  left = more;
}

extern "C" __attribute__((visibility("default"))) int pthread_create(
    pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
    void* argument) noexcept {
  if (left.fetch_sub(1) <= 0) return EAGAIN;
  using Create = decltype(&pthread_create);
  static const auto real = reinterpret_cast<Create>(::dlsym(RTLD_NEXT, "pthread_create"));
  return real(thread, attributes, start, argument);
}
