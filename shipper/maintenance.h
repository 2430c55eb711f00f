#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/clock.h"
#include "shipper/engine.h"

namespace sqlstream {

class Replicator;

/// When a replica needs a new snapshot within its generation. Pure.
struct SnapshotRule {
  std::optional<std::chrono::nanoseconds> interval;  ///< asked for by the user
  std::chrono::nanoseconds retention;  ///< what is older is to be deletable; 0 or less: nothing is

  /// The moment from which one is due; empty while nothing was shipped since the last. All sizes in
  /// stored bytes.
  std::optional<Time> due(Time last_snapshot, std::uint64_t snapshot_size,
                          std::uint64_t bytes_since) const;
};

/// Beside a replica's segments: later snapshots, which begin a new index and do not hold segments
/// back, and the deletion of what the retention lets go. Sleeps on one timer, for the next of these
/// that is due. Lives on the engine's thread, as long as its Replicator.
class Maintenance {
 public:
  explicit Maintenance(Replicator& replicator);
  asio::awaitable<void> run();
  /// The replicator moved on.
  void notify() { signal_.notify(); }

 private:
  std::optional<Time> snapshot_due() const;
  std::optional<Time> retention_due() const;
  asio::awaitable<void> write_snapshot();
  asio::awaitable<void> enforce_retention();

  Replicator& replicator_;
  Signal signal_;
  Time not_before_{};
  std::string last_error_;
};

}  // namespace sqlstream
