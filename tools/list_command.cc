#include "tools/list_command.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <optional>

#include "base/log.h"
#include "store/replica.h"
#include "tools/flags.h"
#include "tools/replica_argument.h"
#include "tools/session.h"

namespace sqlstream::tools {
namespace {

po::options_description known_flags() {
  po::options_description known;
  known.add_options()("generation", po::value<std::string>()->value_name("G"),
                      "only this generation")("help", switch_value(), "show this");
  return known;
}

// Litestream's times: whole seconds.
std::string shown_time(Time time) {
  return format_rfc3339(std::chrono::floor<std::chrono::seconds>(time));
}

std::string shown_lag(Time latest) {
  const auto lag = std::chrono::duration_cast<std::chrono::seconds>(now() - latest).count();
  char text[64];
  if (lag < 60) {
    std::snprintf(text, sizeof text, "%" PRId64 "s", static_cast<std::int64_t>(lag));
  } else if (lag < 3600) {
    std::snprintf(text, sizeof text, "%" PRId64 "m%" PRId64 "s",
                  static_cast<std::int64_t>(lag / 60), static_cast<std::int64_t>(lag % 60));
  } else {
    std::snprintf(text, sizeof text, "%" PRId64 "h%" PRId64 "m%" PRId64 "s",
                  static_cast<std::int64_t>(lag / 3600), static_cast<std::int64_t>(lag / 60 % 60),
                  static_cast<std::int64_t>(lag % 60));
  }
  return text;
}

asio::awaitable<void> list_generation(Store& store, std::string replica, Generation generation) {
  const auto snapshots = co_await replica::list_snapshots(store, generation);
  const auto segments = co_await replica::list_segments(store, generation);
  if (snapshots.empty() && segments.empty()) co_return;
  Time first = Time::max();
  Time last = Time::min();
  const auto include = [&](const auto& objects) {
    for (const auto& object : objects) {
      first = std::min(first, object.created);
      last = std::max(last, object.created);
    }
  };
  include(snapshots);
  include(segments);
  std::printf("%s  %s  %s  %s  %s\n", replica.c_str(), generation.str().c_str(),
              shown_lag(last).c_str(), shown_time(first).c_str(), shown_time(last).c_str());
}

asio::awaitable<void> list_snapshots(Store& store, std::string replica, Generation generation) {
  for (const auto& snapshot : co_await replica::list_snapshots(store, generation)) {
    std::printf("%s  %s  %08x  %" PRIu64 "  %s\n", replica.c_str(), generation.str().c_str(),
                snapshot.index, snapshot.size, shown_time(snapshot.created).c_str());
  }
}

asio::awaitable<void> list_wal(Store& store, std::string replica, Generation generation) {
  for (const auto& segment : co_await replica::list_segments(store, generation)) {
    std::printf("%s  %s  %08x  %08" PRIx64 "  %" PRIu64 "  %s\n", replica.c_str(),
                generation.str().c_str(), segment.position.index, segment.position.offset,
                segment.size, shown_time(segment.created).c_str());
  }
}

}  // namespace

bool is_list_command(const std::string& command) {
  return command == "generations" || command == "snapshots" || command == "wal";
}

std::string list_usage(const std::string& command) {
  return "usage: sqlstream " + command +
         " [flags] URL\n\nLists what a replica holds. Times are those of the store.\n\n" +
         describe_flags(known_flags());
}

int list_command(const std::string& command, const Words& words) {
  const ParsedFlags flags = parse_flags(words, known_flags());
  if (flags.arguments.size() != 1) throw UsageError("one replica URL is required");
  std::optional<Generation> only;
  if (flags.has("generation")) only = parse_generation_flag(flags);
  log::set_sink(log::descriptor_sink(2));
  const ReplicaArgument argument = resolve_replica(flags.arguments.front());

  const char* columns = command == "generations" ? "name  generation  lag  start  end"
                        : command == "snapshots"
                            ? "replica  generation  index  size  created"
                            : "replica  generation  index  offset  size  created";
  with_store(argument.replica.store,
             [&](Store& store, asio::thread_pool&) -> asio::awaitable<void> {
               auto generations = co_await replica::list_generations(store);
               if (only) std::erase_if(generations, [&](Generation g) { return g != *only; });
               std::puts(columns);
               const std::string& name = argument.replica.name;
               for (const Generation generation : generations) {
                 if (command == "generations") {
                   co_await list_generation(store, name, generation);
                 } else if (command == "snapshots") {
                   co_await list_snapshots(store, name, generation);
                 } else {
                   co_await list_wal(store, name, generation);
                 }
               }
             });
  return 0;
}

}  // namespace sqlstream::tools
