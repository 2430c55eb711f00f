#include "base/fork.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <pthread.h>
#include <type_traits>
#include <unistd.h>

namespace sqlstream {
namespace {

// Held over fork(), so that the child finds the list whole. Not allocated, which could fail where
// nobody would catch it, and never destroyed.
std::mutex list_mutex;
static_assert(std::is_trivially_destructible_v<std::mutex>);

ForkClosedFd* first = nullptr;
std::atomic<std::uint64_t> epoch{0};
std::array<void (*)(), 8> hooks{};

}  // namespace

void close_fork_closed_fds() noexcept {
  for (ForkClosedFd* fd = first; fd != nullptr; fd = fd->next_) {
    const int value = fd->fd_.exchange(-1);
    if (value >= 0) ::close(value);
  }
}

std::uint64_t fork_epoch() {
  return epoch.load(std::memory_order_acquire);
}

void call_in_child(void (*hook)()) {
  {
    const std::lock_guard lock(list_mutex);
    const auto free = std::find_if(hooks.begin(), hooks.end(), [hook](const auto known) {
      return known == nullptr || known == hook;
    });
    if (free != hooks.end()) *free = hook;
  }
  watch_forks();
}

void watch_forks() {
  static std::once_flag once;
  std::call_once(once, [] {
    pthread_atfork([] { list_mutex.lock(); }, [] { list_mutex.unlock(); },
                   [] {
                     close_fork_closed_fds();
                     list_mutex.unlock();
                     epoch.fetch_add(1, std::memory_order_acq_rel);
                     for (const auto known : hooks) {
                       if (known != nullptr) known();
                     }
                   });
  });
}

void hold_off_forks(const std::function<void()>& call) {
  watch_forks();
  const std::lock_guard lock(list_mutex);
  call();
}

ForkClosedFd::ForkClosedFd() noexcept : ForkClosedFd(-1) {}

ForkClosedFd::ForkClosedFd(int fd) noexcept : fd_(fd) {
  const std::lock_guard lock(list_mutex);
  next_ = first;
  if (first != nullptr) first->previous_ = this;
  first = this;
}

ForkClosedFd::~ForkClosedFd() {
  reset();
  const std::lock_guard lock(list_mutex);
  if (next_ != nullptr) next_->previous_ = previous_;
  (previous_ != nullptr ? previous_->next_ : first) = next_;
}

void ForkClosedFd::open(const std::function<int()>& make) {
  const std::lock_guard lock(list_mutex);
  replace(make());
}

void ForkClosedFd::reset(int fd) noexcept {
  const std::lock_guard lock(list_mutex);
  replace(fd);
}

// Forks are held off: a child made between the two steps would keep a copy of the old one.
void ForkClosedFd::replace(int fd) noexcept {
  const int old = fd_.exchange(fd);
  if (old >= 0) ::close(old);
}

}  // namespace sqlstream
