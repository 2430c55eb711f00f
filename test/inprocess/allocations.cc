// malloc() and its relatives, and pthread_create(), in the place of libc's, which do the work.

#include "allocations.h"

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <dlfcn.h>
#include <pthread.h>

#include <sqlite3.h>

#define EXPORTED extern "C" __attribute__((visibility("default")))

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* old, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
}

namespace sqlstream::testing::allocations {
namespace {

thread_local Who who = Who::engine;

std::atomic<std::int64_t> counts[3]{};
std::atomic<std::int64_t> failing[3]{INT64_MAX, INT64_MAX, INT64_MAX};
std::atomic<bool> all_from_there{false};
std::atomic<int> threads_left{INT_MAX};

bool fails(Threads threads) {
  const auto place = static_cast<std::size_t>(threads);
  const std::int64_t number = counts[place].fetch_add(1) + 1;
  const std::int64_t wanted = failing[place].load();
  return number == wanted || (number > wanted && all_from_there.load());
}

bool fails() {
  if (who == Who::nobody) return false;
  if (!fails(who == Who::application ? Threads::application : Threads::engine)) return false;
  errno = ENOMEM;
  return true;
}

sqlite3_mem_methods sqlites{};

bool sqlite_fails() {
  return who == Who::application && fails(Threads::sqlite);
}

// What SQLite's allocator takes from malloc() does not fail there.
void* sqlite_malloc(int size) {
  if (sqlite_fails()) return nullptr;
  const AsNobody exempt;
  return sqlites.xMalloc(size);
}

void* sqlite_realloc(void* old, int size) {
  if (sqlite_fails()) return nullptr;
  const AsNobody exempt;
  return sqlites.xRealloc(old, size);
}

}  // namespace

void begin() {
  who = Who::nobody;
  sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sqlites);
  sqlite3_mem_methods methods = sqlites;
  methods.xMalloc = sqlite_malloc;
  methods.xRealloc = sqlite_realloc;
  sqlite3_config(SQLITE_CONFIG_MALLOC, &methods);
}

void fail(Threads threads, std::int64_t number, bool onwards) {
  for (auto& count : counts) count = 0;
  all_from_there = onwards;
  failing[static_cast<std::size_t>(threads)] = number;
}

void stop() {
  for (auto& number : failing) number = INT64_MAX;
}

void limit_threads(int more) {
  threads_left = more;
}

std::int64_t count(Threads threads) {
  return counts[static_cast<std::size_t>(threads)];
}

As::As(Who one) : before_(who) {
  who = one;
}

As::~As() {
  who = before_;
}

}  // namespace sqlstream::testing::allocations

using sqlstream::testing::allocations::fails;
using sqlstream::testing::allocations::threads_left;

EXPORTED void* malloc(std::size_t size) noexcept {
  return fails() ? nullptr : __libc_malloc(size);
}

EXPORTED void* calloc(std::size_t count, std::size_t size) noexcept {
  return fails() ? nullptr : __libc_calloc(count, size);
}

EXPORTED void* realloc(void* old, std::size_t size) noexcept {
  return fails() ? nullptr : __libc_realloc(old, size);
}

EXPORTED void* memalign(std::size_t alignment, std::size_t size) noexcept {
  return fails() ? nullptr : __libc_memalign(alignment, size);
}

EXPORTED void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return memalign(alignment, size);
}

EXPORTED int posix_memalign(void** to, std::size_t alignment, std::size_t size) noexcept {
  *to = memalign(alignment, size);
  return *to == nullptr ? ENOMEM : 0;
}

EXPORTED int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                            void* (*start)(void*), void* argument) noexcept {
  if (threads_left.fetch_sub(1) <= 0) return EAGAIN;
  using Create = decltype(&pthread_create);
  static const auto real = reinterpret_cast<Create>(::dlsym(RTLD_NEXT, "pthread_create"));
  return real(thread, attributes, start, argument);
}
