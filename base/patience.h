#pragma once

namespace sqlstream {

/// What of a thread's allocations is tried again, where it fails, until there is memory. For
/// threads of ours: Boost.Asio cannot go on where beginning an operation threw (the coroutine that
/// waits for it is destroyed), and nobody would catch what a worker throws.
///
/// It reaches small ones only, by aligned_alloc() (Asio's own) and by operator new in code of ours
/// and in headers: the linker redirects these (--wrap), in what it links and nowhere else in the
/// process. What the C++ library does inside of itself throws as ever. No lock that the application
/// takes may be held meanwhile.
enum class Patience { nothing, asio, everything };

/// From now on, for the calling thread.
void set_patience(Patience patience) noexcept;

/// The calling thread has another patience while this lives.
class PatienceMeanwhile {
 public:
  explicit PatienceMeanwhile(Patience patience) noexcept;
  ~PatienceMeanwhile();
  PatienceMeanwhile(const PatienceMeanwhile&) = delete;
  PatienceMeanwhile& operator=(const PatienceMeanwhile&) = delete;

 private:
  Patience before_;
};

/// Some thread waits for memory now. Thread-safe.
bool memory_awaited() noexcept;

}  // namespace sqlstream
