#include "base/patience.h"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <ctime>
#include <new>
#include <pthread.h>

namespace sqlstream {
namespace {

// Larger ones are not Asio's, and may never be had.
constexpr std::size_t kSmall = 64 << 10;
constexpr timespec kPause{0, 10'000'000};

std::atomic<int> waiting{0};

// Not thread_local: in a library that was loaded later, a thread's first look at one allocates, and
// a failure ends the process. Here it is the application's threads that look.
class PatienceOfThread {
 public:
  PatienceOfThread() : usable_(::pthread_key_create(&key_, nullptr) == 0) {}

  Patience get() const {
    const void* value = usable_ ? ::pthread_getspecific(key_) : nullptr;
    return value == nullptr ? Patience::nothing : *static_cast<const Patience*>(value);
  }

  void set(Patience what) const {
    static constexpr Patience kAll[] = {Patience::nothing, Patience::asio, Patience::everything};
    const Patience* value = &kAll[static_cast<std::size_t>(what)];
    while (usable_ && ::pthread_setspecific(key_, value) == ENOMEM) ::nanosleep(&kPause, nullptr);
  }

 private:
  pthread_key_t key_{};
  bool usable_;
};

const PatienceOfThread& patience() {
  static const PatienceOfThread of_thread;
  return of_thread;
}

template <class Allocate>
void* allocate(Patience least, std::size_t size, const Allocate& try_once) noexcept {
  void* memory = try_once();
  if (memory != nullptr || size > kSmall || patience().get() < least) return memory;
  waiting.fetch_add(1);
  while ((memory = try_once()) == nullptr) ::nanosleep(&kPause, nullptr);
  waiting.fetch_sub(1);
  return memory;
}

}  // namespace

void set_patience(Patience what) noexcept {
  patience().set(what);
}

PatienceMeanwhile::PatienceMeanwhile(Patience what) noexcept : before_(patience().get()) {
  set_patience(what);
}

PatienceMeanwhile::~PatienceMeanwhile() {
  set_patience(before_);
}

bool memory_awaited() noexcept {
  return waiting.load() > 0;
}

// In the place of operator new and aligned_alloc(): see meson.build.

void* patient_new(std::size_t size) __asm__("__wrap__Znwm");
void* patient_aligned_alloc(std::size_t alignment, std::size_t size) noexcept
    __asm__("__wrap_aligned_alloc");
void* real_aligned_alloc(std::size_t alignment, std::size_t size) noexcept
    __asm__("__real_aligned_alloc");

void* patient_new(std::size_t size) {
  void* memory =
      allocate(Patience::everything, size, [size] { return ::operator new(size, std::nothrow); });
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void* patient_aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return allocate(Patience::asio, size, [=] { return real_aligned_alloc(alignment, size); });
}

}  // namespace sqlstream
