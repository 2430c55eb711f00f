#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include "base/clock.h"
#include "format/position.h"
#include "shipper/replica_note.h"
#include "shipper/settings.h"

/// How replication stands, for a process that has no part in it: from the files alone. Creates
/// nothing, takes no lock, opens no database.
namespace sqlstream {

struct ReplicaOverview {
  std::string name;
  std::string url;  ///< without credentials
  Generation generation;
  Position position;           ///< where the next segment begins
  std::uint64_t sequence = 0;  ///< of the last batch in it; 0: nothing is known to be in it
  /// 0: it has all that is committed. Else since the first commit that it has not; where that was
  /// not captured yet, since the last one that was. Empty: not known.
  std::optional<std::chrono::nanoseconds> lag;
  Time snapshot{};  ///< when the last one was written; 0: not known
  std::string error;
  Time error_since{};
  ValidationState validation;
  pid_t pid = 0;   ///< of the process that shipped to it last; 0: not known
  int sqlite = 0;  ///< the version of that process's SQLite; 0: not known
};

struct DatabaseOverview {
  enum class State {
    unknown,      ///< it cannot be read
    missing,      ///< there is no database
    waiting,      ///< nothing was captured yet, or a new generation is about to begin
    replicating,  ///< the generation goes on
    degraded,     ///< … but commits do not wait as they should: a replica is behind
    paused,       ///< the application chose another journal mode
  };
  std::string path;
  State state = State::missing;
  std::uint64_t outbox_bytes = 0;
  Time last_commit{};     ///< the last that was captured; 0: none
  bool shipping = false;  ///< some process does now
  Time degraded_since{};  ///< while degraded
  std::vector<ReplicaOverview> replicas;
};

/// Throws Error for what must not be read.
DatabaseOverview overview_of(const DatabaseSettings& settings);

/// "replicating"
const char* name_of(DatabaseOverview::State state);

}  // namespace sqlstream
