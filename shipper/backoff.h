#pragma once

#include <algorithm>
#include <chrono>

namespace sqlstream {

/// The pauses between tries of what fails: each twice the one before, up to the longest.
class Backoff {
 public:
  Backoff(std::chrono::nanoseconds first, std::chrono::nanoseconds longest)
      : first_(first), longest_(longest), next_(first) {}

  /// After a failure: how long to wait now.
  std::chrono::nanoseconds next() {
    const auto pause = next_;
    next_ = std::min(next_ * 2, longest_);
    return pause;
  }
  /// It went well.
  void reset() { next_ = first_; }

 private:
  std::chrono::nanoseconds first_;
  std::chrono::nanoseconds longest_;
  std::chrono::nanoseconds next_;
};

}  // namespace sqlstream
