#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <string>

#include "replicate/keeper.h"
#include "replicate/watcher.h"
#include "shipper/engine.h"

namespace sqlstream {

/// Follows one database that other programs write: opens it as soon as it has content, captures
/// what they commit, and opens it again when another file takes its place. For the engine's
/// thread, except where it says otherwise.
class Follower {
 public:
  struct Settings {
    std::string path;  ///< canonical
    std::chrono::nanoseconds interval =
        std::chrono::seconds(1);  ///< under load, a step per so long
    Keeper::Limits limits;
  };

  /// On any thread. `watcher` must outlive this.
  Follower(Settings settings, Watcher& watcher);

  /// Until stop(); captures what is there before it returns. To be run once.
  asio::awaitable<void> run();
  void stop();

  /// Fulfilled when what was committed before is captured, or there is nothing to capture yet. On
  /// any thread, once.
  std::future<void> ready() { return ready_.get_future(); }

 private:
  asio::awaitable<void> open();
  asio::awaitable<void> wait_for_database();
  asio::awaitable<void> follow();
  void told(Watcher::Change change);
  void watch();
  bool is_due(const WalState& state);
  void become_ready();
  void report(std::string& said, const std::string& error);

  const Settings settings_;
  Watcher& watcher_;
  std::unique_ptr<Watcher::Subscription> subscription_;
  Signal signal_;
  std::unique_ptr<Keeper> keeper_;
  std::promise<void> ready_;
  bool is_ready_ = false;
  bool stopping_ = false;
  bool renamed_ = false;
  bool said_missing_ = false;
  std::string error_, watch_error_;  // as said last
  std::optional<std::chrono::steady_clock::time_point> busy_since_;
  int waits_ = 0;
  int failures_ = 0;
  std::optional<WalState> seen_;
  std::chrono::steady_clock::time_point seen_at_{};
  std::chrono::steady_clock::time_point stepped_at_{};
  std::chrono::steady_clock::time_point not_before_{};  // after a step that could not be made
};

}  // namespace sqlstream
