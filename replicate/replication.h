#pragma once

#include <future>
#include <memory>
#include <vector>

#include "replicate/follower.h"

namespace sqlstream {

/// Follows databases, on the engine's threads, from its construction to stop(). The VFS must be
/// registered, and know their replicas.
class Replication {
 public:
  /// Throws Error when files cannot be watched.
  explicit Replication(const std::vector<Follower::Settings>& databases);
  /// Stops, if that was not done.
  ~Replication();
  Replication(const Replication&) = delete;
  Replication& operator=(const Replication&) = delete;

  /// Returns when what is there is captured, and all that is committed from then on will be.
  void wait_until_ready();
  /// Captures what is committed, and lets go of the databases. What is captured is shipped on.
  void stop();

 private:
  Watcher watcher_;
  std::vector<std::unique_ptr<Follower>> followers_;
  std::vector<std::future<void>> ready_;
  std::vector<std::future<void>> ended_;
};

}  // namespace sqlstream
