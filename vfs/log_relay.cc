#include "vfs/log_relay.h"

#include <atomic>
#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.h"

namespace sqlstream::log_relay {
namespace {

constexpr std::size_t kMaxWaiting = 64;

struct Line {
  int code;
  std::string text;
};

std::atomic<bool> waiting{false};
std::mutex mutex;

/// Never freed: threads may log until the last moment of the process.
std::vector<Line>& lines() {
  static auto* const all = new std::vector<Line>;
  return *all;
}

void take(log::Level level, std::string_view text) {
  const std::lock_guard lock(mutex);
  if (lines().size() >= kMaxWaiting) return;
  lines().push_back(
      {level == log::Level::error ? SQLITE_ERROR : SQLITE_WARNING, std::string(text)});
  waiting.store(true, std::memory_order_release);
}

}  // namespace

void install() {
  log::set_sink(take, log::Level::warn);
}

void deliver(const sqlite3_api_routines& api) noexcept {
  if (!waiting.load(std::memory_order_relaxed)) return;
  std::vector<Line> taken;
  {
    // Never waits: a fork may have left the mutex locked in the child.
    const std::unique_lock lock(mutex, std::try_to_lock);
    if (!lock) return;
    taken.swap(lines());
    waiting.store(false, std::memory_order_relaxed);
  }
  for (const Line& line : taken) api.log(line.code, "sqlstream: %s", line.text.c_str());
}

}  // namespace sqlstream::log_relay
