#pragma once

#include <cerrno>
#include <csignal>
#include <ctime>
#include <pthread.h>

namespace sqlstream {

/// Blocks every signal in this thread for a scope: a thread started inside keeps them blocked, so
/// that the host program's handlers never run on a thread of ours.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

/// Keeps the signal that a failing write raises in this thread (SIGPIPE, SIGXFSZ) from the host
/// program, which it would end, for a scope.
class WriteSignalHeld {
 public:
  explicit WriteSignalHeld(int signal) {
    sigemptyset(&held_);
    sigaddset(&held_, signal);
    pthread_sigmask(SIG_BLOCK, &held_, &before_);
    was_blocked_ = sigismember(&before_, signal) != 0;
  }
  ~WriteSignalHeld() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  WriteSignalHeld(const WriteSignalHeld&) = delete;
  WriteSignalHeld& operator=(const WriteSignalHeld&) = delete;

  /// After a write that raised it. Leaves errno.
  void take() {
    const int error = errno;
    const timespec none{};
    if (!was_blocked_) sigtimedwait(&held_, nullptr, &none);
    errno = error;
  }

 private:
  sigset_t held_{};
  sigset_t before_{};
  bool was_blocked_ = false;
};

}  // namespace sqlstream
