#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

/// What a child of fork() inherits and must let go of at once. Kernel locks go with an open file
/// description: a child that keeps a copy of the descriptor keeps the lock alive after its parent
/// died.
namespace sqlstream {

/// How many times this process is a child of a process that had these handlers: 0, then one more in
/// each generation of children. What remembers an older value belongs to a parent. Thread-safe.
std::uint64_t fork_epoch();

/// Has forks counted from now on. Thread-safe.
void watch_forks();

/// Has `hook` called in every child, after the descriptors were closed, in the order of the calls
/// (at most 8; the same hook counts once). It must not take locks (a thread that holds them may not
/// exist there; it makes them anew), nor allocate: not every allocator survives a fork at any
/// instant, and the child may be about to exec. Thread-safe.
void call_in_child(void (*hook)());

/// Runs `call` while no fork begins: what locks it takes, of other libraries too, no child finds
/// held. It must neither fork nor use ForkClosedFd. Thread-safe.
void hold_off_forks(const std::function<void()>& call);

/// Owns a descriptor that a forked child closes (never unlocks) before anything else runs there.
/// In the child the object reports -1. Thread-safe against fork(), not otherwise.
class ForkClosedFd {
 public:
  ForkClosedFd() noexcept;
  explicit ForkClosedFd(int fd) noexcept;
  ForkClosedFd(const ForkClosedFd&) = delete;
  ForkClosedFd& operator=(const ForkClosedFd&) = delete;
  ~ForkClosedFd();
  int get() const { return fd_.load(std::memory_order_relaxed); }
  explicit operator bool() const { return get() >= 0; }
  /// Closes what it owned and owns `fd` (-1: nothing).
  void reset(int fd = -1) noexcept;
  /// Owns what `make` opens, holding forks off meanwhile: no child has a copy that is not closed
  /// there. `make` may throw.
  void open(const std::function<int()>& make);

 private:
  friend void close_fork_closed_fds() noexcept;
  void replace(int fd) noexcept;
  std::atomic<int> fd_{-1};
  ForkClosedFd* next_ = nullptr;
  ForkClosedFd* previous_ = nullptr;
};

}  // namespace sqlstream
