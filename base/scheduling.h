#pragma once

namespace sqlstream {

/// A thread of ours, which works beside an application's, for as long as the object lives on it:
/// when it wakes up, it waits until a processor is free or its turn comes, and does not interrupt
/// who runs (SCHED_BATCH, sched(7)). That may be a thread that has SQLite's write lock, and all
/// others would wait with it. Its share of the processors stays the same. Left as it is where
/// somebody chose another policy for the program, and where system calls are filtered, since a
/// filter may end the program for this one (systemd's SystemCallFilter=~@resources).
class InterruptsNobody {
 public:
  InterruptsNobody() noexcept;
  InterruptsNobody(const InterruptsNobody&) = delete;
  InterruptsNobody& operator=(const InterruptsNobody&) = delete;
  ~InterruptsNobody();

 private:
  friend void somebody_waits() noexcept;
  int id_ = 0;  // the kernel's, of the thread; 0: left as it is
  InterruptsNobody* next_ = nullptr;
};

/// From now on a thread of the application waits for ours: they take a processor as soon as the
/// kernel lets any thread have it. For good. Cheap from the second time on. Thread-safe.
void somebody_waits() noexcept;

}  // namespace sqlstream
