#pragma once

// What the files of class Database share, and nobody else includes.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fork.h"
#include "shipper/database.h"

namespace sqlstream {

using std::chrono::steady_clock;

constexpr auto kLongestWait = std::chrono::seconds(2);  // for a capture that must not be missed
constexpr auto kRetry = std::chrono::seconds(1);        // after a capture that could not be made
constexpr auto kSoon = std::chrono::milliseconds(5);
constexpr auto kTakeOverPause = std::chrono::milliseconds(20);

/// The databases of this process.
struct Database::Registry {
  std::uint64_t epoch = fork_epoch();
  std::mutex mutex;
  std::vector<std::shared_ptr<Database>> databases;
  std::vector<std::shared_ptr<Database>> retired;
  bool looks = false;  ///< look_for_untold() runs; the engine's thread

  /// Never destroyed, and left to the parent in a forked child.
  static Registry& get();
};

/// While one lives, what there is is captured and shipped without pacing.
class Database::Flushing {
 public:
  Flushing(Database& database, unsigned news) : database_(database), ends_((news & kEnd) != 0) {
    database_.flushing_.fetch_add(1);
    if (ends_) database_.ending_.fetch_add(1);
    database_.tell(kCapture | news);
  }
  Flushing(const Flushing&) = delete;
  Flushing& operator=(const Flushing&) = delete;
  ~Flushing() {
    if (ends_) database_.ending_.fetch_sub(1);
    database_.flushing_.fetch_sub(1);
  }

 private:
  Database& database_;
  const bool ends_;
};

/// False when it was that high already.
inline bool raise_to(std::atomic<std::uint64_t>& value, std::uint64_t least) {
  std::uint64_t known = value.load();
  while (known < least) {
    if (value.compare_exchange_weak(known, least)) return true;
  }
  return false;
}

inline Time to_time(std::int64_t ns) {
  return Time(std::chrono::nanoseconds(ns));
}

}  // namespace sqlstream
