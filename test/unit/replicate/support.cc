#include "support.h"

#include <thread>

#include <doctest/doctest.h>

#include "capture/glance.h"
#include "vfs/shim.h"

namespace sqlstream::testing {

Followed::Followed(const std::string& folder)
    : path_(folder_.file(folder.empty() ? "app.db" : folder + "/app.db")) {
  register_shim();
  DatabaseSettings settings;
  settings.path = path_;
  settings.outbox_dir = folder_.file("outbox");
  ReplicaSettings replica;
  replica.name = "file";
  replica.store.path = folder_.file("replica");
  settings.replicas.push_back(replica);
  use_settings([settings](const std::string& path, const std::string&) {
    return path == settings.path ? std::optional(settings) : std::nullopt;
  });
}

bool Followed::captured_any() const {
  const auto glance = capture::glance_at(folder_.file("outbox"));
  return glance && glance->tail;
}

capture::Tail Followed::tail() const {
  const auto glance = capture::glance_at(folder_.file("outbox"));
  REQUIRE(glance);
  REQUIRE(glance->tail);
  return *glance->tail;
}

Application::Application(const std::string& path) : Sqlite("file:" + path, "unix") {
  must("PRAGMA journal_mode=WAL");
  must("PRAGMA wal_autocheckpoint=0");
}

std::string Application::checkpoint(const std::string& mode) {
  std::string row = must("PRAGMA wal_checkpoint(" + mode + ')');
  row.pop_back();
  return row;
}

void wait_until(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!condition()) {
    REQUIRE(std::chrono::steady_clock::now() < end);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

}  // namespace sqlstream::testing
