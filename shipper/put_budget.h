#pragma once

#include <chrono>
#include <cstdint>

#include "base/clock.h"

namespace sqlstream {

/// How many PUTs a replica may still see, where they are bounded by the day (the setting
/// `adaptive`): a store of PUTs that fills evenly, and holds an hour's worth. Whatever is sent is
/// taken, also what cannot wait and makes it negative; the rest waits the longer. Pure; a value,
/// kept in the outbox's note of the replica, so that a restart begins with no new day.
struct PutBudget {
  double left = 0;
  Time at{};  ///< when that many were left; the beginning of time: full

  /// That many PUTs were sent at `now`. Precondition: per_day > 0, here and below.
  void take(std::uint64_t per_day, Time now, std::uint64_t puts);

  /// How long after the last segment the next one may be sent, seen from `now`: `shortest`, and the
  /// more the less is left, up to an even spread over the day. With none left it is the time from
  /// `now` until there is one.
  struct Pause {
    std::chrono::nanoseconds length;
    bool from_now;  ///< else from the last segment
  };
  Pause pause(std::uint64_t per_day, Time now, std::chrono::nanoseconds shortest) const;

 private:
  double left_at(std::uint64_t per_day, Time now) const;
};

/// The PUTs (and POSTs, which cost the same) that an object of so many bytes takes on S3.
std::uint64_t puts_of(std::uint64_t stored);

}  // namespace sqlstream
