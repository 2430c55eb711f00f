#pragma once

#include <cstdint>

namespace sqlstream::testing::allocations {

/// Whose allocations: those made inside of SQLite's calls (AsApplication) but not by its allocator,
/// those of all other threads but the test's own, or those that SQLite's allocator is asked for
/// inside of its calls, by itself or by the shim.
enum class Threads { application, engine, sqlite };

/// Takes the calling thread, the test's own, out of all this. Before SQLite is used, and before any
/// thread is started.
void begin();

/// From now on fails the `number`th allocation of `threads`, or with `onwards` each from there on.
void fail(Threads threads, std::int64_t number, bool onwards);
/// There is memory again.
void stop();
/// Allocations of `threads` since fail().
std::int64_t count(Threads threads);

/// From now on only so many threads can be started.
void limit_threads(int more);

/// Whose allocations a thread's are; nobody's never fail.
enum class Who : std::uint8_t { engine, application, nobody };

/// While one lives, the calling thread's are of that one.
class As {
 public:
  explicit As(Who one);
  As(const As&) = delete;
  As& operator=(const As&) = delete;
  ~As();

 private:
  Who before_;
};

struct AsApplication : As {
  AsApplication() : As(Who::application) {}
};

struct AsNobody : As {
  AsNobody() : As(Who::nobody) {}
};

}  // namespace sqlstream::testing::allocations
