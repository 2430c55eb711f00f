#include "tools/list_command.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <optional>
#include <vector>

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

using Row = std::vector<std::string>;
using Table = std::vector<Row>;

// Columns as wide as their widest cell.
void print(const Table& table) {
  std::vector<std::size_t> widths;
  for (const Row& row : table) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const Row& row : table) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] + 2 - row[i].size(), ' ');
    }
    std::puts(line.c_str());
  }
}

struct Replica {
  Store& store;
  std::string name;
};

asio::awaitable<void> add_generation(const Replica& replica, Generation generation, Table& table) {
  const auto snapshots = co_await replica::list_snapshots(replica.store, generation);
  const auto segments = co_await replica::list_segments(replica.store, generation);
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
  table.push_back(
      {replica.name, generation.str(), shown_lag(last), shown_time(first), shown_time(last)});
}

asio::awaitable<void> add_snapshots(const Replica& replica, Generation generation, Table& table) {
  const auto snapshots = co_await replica::list_snapshots(replica.store, generation);
  for (const auto& snapshot : snapshots) {
    table.push_back({replica.name, generation.str(), std::to_string(snapshot.index),
                     std::to_string(snapshot.size), shown_time(snapshot.created)});
  }
}

asio::awaitable<void> add_segments(const Replica& replica, Generation generation, Table& table) {
  const auto segments = co_await replica::list_segments(replica.store, generation);
  for (const auto& segment : segments) {
    table.push_back({replica.name, generation.str(), std::to_string(segment.position.index),
                     std::to_string(segment.position.offset), std::to_string(segment.size),
                     shown_time(segment.created)});
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

  Table table;
  if (command == "generations") {
    table.push_back({"name", "generation", "lag", "start", "end"});
  } else if (command == "snapshots") {
    table.push_back({"replica", "generation", "index", "size", "created"});
  } else {
    table.push_back({"replica", "generation", "index", "offset", "size", "created"});
  }
  with_store(argument.replica.store,
             [&](Store& store, asio::thread_pool&) -> asio::awaitable<void> {
               const Replica replica{store, argument.replica.name};
               const auto generations = co_await replica::list_generations(store);
               for (const Generation generation : generations) {
                 if (only && generation != *only) continue;
                 if (command == "generations") {
                   co_await add_generation(replica, generation, table);
                 } else if (command == "snapshots") {
                   co_await add_snapshots(replica, generation, table);
                 } else {
                   co_await add_segments(replica, generation, table);
                 }
               }
             });
  print(table);
  return 0;
}

}  // namespace sqlstream::tools
