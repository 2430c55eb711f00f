#include "vfs/log_relay.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>
#include <vector>

#include "base/fork.h"
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

// Where SQLSTREAM_LOG wants the lines too: null for nowhere.
log::Sink* own_log = nullptr;

// Empty: it is none of these.
std::optional<log::Level> level_from_environment() {
  const char* const value = std::getenv("SQLSTREAM_LOG_LEVEL");
  const std::string_view level = value == nullptr ? "" : value;
  if (level == "debug") return log::Level::debug;
  if (level.empty() || level == "info") return log::Level::info;
  if (level == "warn") return log::Level::warn;
  if (level == "error") return log::Level::error;
  return std::nullopt;
}

void take(log::Level level, std::string_view text) {
  if (own_log != nullptr) (*own_log)(level, text);
  if (level < log::Level::warn) return;
  const std::lock_guard lock(mutex);
  if (lines().size() >= kMaxWaiting) return;
  lines().push_back(
      {level == log::Level::error ? SQLITE_ERROR : SQLITE_WARNING, std::string(text)});
  waiting.store(true, std::memory_order_release);
}

}  // namespace

void install() {
  call_in_child([] { new (&mutex) std::mutex(); });
  const char* const target = std::getenv("SQLSTREAM_LOG");
  if (target == nullptr || *target == 0) {
    log::set_sink(take, log::Level::warn);
    return;
  }
  const std::string_view name(target);
  auto sink = name == "stderr" ? log::descriptor_sink(STDERR_FILENO) : log::file_sink(target);
  const auto level = level_from_environment();
  const bool opened = static_cast<bool>(sink);
  if (!opened) sink = log::descriptor_sink(STDERR_FILENO);
  own_log = new log::Sink(std::move(sink));
  log::set_sink(take, level.value_or(log::Level::info));
  if (!opened)
    log::warn("the file that SQLSTREAM_LOG names cannot be opened; it is the standard error now",
              {{"file", target}});
  if (!level) log::warn("SQLSTREAM_LOG_LEVEL must be debug, info, warn or error; it is info now");
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
