#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "capture/outbox.h"

/// What an outbox tells somebody who has no part in it. Reads only: creates nothing, takes no lock,
/// keeps nothing open.
namespace sqlstream::capture {

struct Glance {
  std::optional<Tail> tail;              ///< empty: nothing was captured yet
  bool alive = false;                    ///< the tail's generation goes on
  std::uint32_t left_wal = 0;            ///< see Control
  bool full = false;                     ///< ended for its size
  std::int64_t behind = 0;               ///< since when commits do not wait as they should, ns
  bool shipping = false;                 ///< some process has the shipping role
  std::uint64_t bytes = 0;               ///< in log files
  std::int64_t written = 0;              ///< when one of them last was, by the file system, ns
  std::vector<std::uint64_t> log_files;  ///< ascending
};

/// Empty when there is no such directory. A record that is being written is not seen. Throws Error
/// for what must not be read, or is damaged.
std::optional<Glance> glance_at(const std::string& directory);

/// True when the database has, or may have, commits that the tail does not: a commit in its WAL
/// behind it, or, where nothing is in a WAL, a file that cannot be shown to be the same. To be
/// called in a process that has no connection to the database.
bool has_more_than(const Tail& tail, const std::string& database);

}  // namespace sqlstream::capture
