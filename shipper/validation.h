#pragma once

#include <atomic>
#include <optional>
#include <string>

#include <boost/asio/cancellation_signal.hpp>

#include "base/clock.h"
#include "shipper/engine.h"

namespace sqlstream {

class Replicator;

/// Proves every `validation-interval` that a replica restores: what `sqlstream verify -no-write`
/// does, into a file of the outbox, and that nothing is missing that was shipped before. Only one
/// runs in a process at a time. Sleeps on one timer, and does nothing without that setting. Lives
/// on the engine's thread, as long as its Replicator.
///
/// What SQLite's integrity check cannot look at without the application's own collations or
/// functions is left out.
class Validation {
 public:
  explicit Validation(Replicator& replicator);
  /// Until stop(), which makes it end with an exception. To be spawned with slot().
  asio::awaitable<void> run();
  asio::cancellation_slot slot() { return stop_.slot(); }
  /// The replicator moved on.
  void notify() { signal_.notify(); }
  /// Ends the validation under way, and begins no other.
  void stop();

 private:
  std::optional<Time> due() const;
  asio::awaitable<void> validate();
  asio::awaitable<std::string> try_once();
  asio::awaitable<void> check();
  asio::awaitable<void> note(const std::string& error);

  Replicator& replicator_;
  Signal signal_;
  asio::cancellation_signal stop_;
  std::atomic<bool> stopped_{false};
  std::chrono::steady_clock::time_point not_before_{};
};

/// Removes what the validations of a process that was killed left in an outbox. For who has the
/// shipping role, before it validates.
void remove_validations(const std::string& outbox);

}  // namespace sqlstream
