#include "tools/list_command.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <sys/stat.h>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "config/units.h"
#include "store/replica.h"
#include "tools/session.h"
#include "tools/source.h"
#include "tools/table.h"

namespace sqlstream::tools {
namespace {

// Litestream's times: whole seconds.
std::string shown_time(Time time) {
  return format_rfc3339(std::chrono::floor<std::chrono::seconds>(time));
}

std::optional<Time> modified_at(const std::string& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) return std::nullopt;
  return Time(std::chrono::seconds(status.st_mtim.tv_sec) +
              std::chrono::nanoseconds(status.st_mtim.tv_nsec));
}

// What a lag is counted from: the database's last write where the database is known.
Time last_write(const std::string& database) {
  const auto main = modified_at(database);
  if (database.empty() || !main) return now();
  return std::max(*main, modified_at(database + "-wal").value_or(*main));
}

struct Listing {
  Store& store;
  std::string replica;  // its name
  Generation generation;
  Table& table;
};

asio::awaitable<void> add_generation(Listing listing, Time written) {
  const auto snapshots = co_await replica::list_snapshots(listing.store, listing.generation);
  const auto segments = co_await replica::list_segments(listing.store, listing.generation);
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
  listing.table.add({listing.replica, listing.generation.str(), shown_lag(written - last),
                     shown_time(first), shown_time(last)});
}

asio::awaitable<void> add_snapshots(Listing listing) {
  const auto snapshots = co_await replica::list_snapshots(listing.store, listing.generation);
  for (const auto& snapshot : snapshots) {
    listing.table.add({listing.replica, listing.generation.str(), std::uint64_t{snapshot.index},
                       snapshot.size, shown_time(snapshot.created)});
  }
}

asio::awaitable<void> add_segments(Listing listing) {
  const auto segments = co_await replica::list_segments(listing.store, listing.generation);
  for (const auto& segment : segments) {
    listing.table.add({listing.replica, listing.generation.str(),
                       std::uint64_t{segment.position.index}, segment.position.offset, segment.size,
                       shown_time(segment.created)});
  }
}

Table empty_table(const std::string& command) {
  if (command == "generations") return Table({"name", "generation", "lag", "start", "end"});
  if (command == "snapshots") return Table({"replica", "generation", "index", "size", "created"});
  return Table({"replica", "generation", "index", "offset", "size", "created"});
}

}  // namespace

std::string shown_lag(std::chrono::nanoseconds lag) {
  using namespace std::chrono_literals;
  const auto size = std::chrono::abs(lag);
  const std::chrono::nanoseconds unit = size > 10s   ? 1s
                                        : size > 1s  ? 100ms
                                        : size > 1ms ? 1ms
                                        : size > 1us ? 1us
                                                     : 1ns;
  return config::format_duration(lag - lag % unit);
}

int databases_command(const ParsedFlags& flags) {
  refuse_arguments(flags);
  Table table({"path", "replicas"});
  for (const DatabaseSettings& database : load_config(flags).databases) {
    std::vector<std::string> names;
    for (const ReplicaSettings& replica : database.replicas) names.push_back(replica.name);
    table.add({database.path, names});
  }
  table.print(flags.on("json"));
  return 0;
}

int list_command(const std::string& command, const ParsedFlags& flags) {
  const auto only = generation_flag(flags);
  const Source source = resolve_source(flags);
  const Time written = last_write(source.database);
  Table table = empty_table(command);
  const auto list = [&](const ReplicaSettings& replica) {
    with_store(replica.store, [&](Store& store, asio::thread_pool&) -> asio::awaitable<void> {
      const auto generations = co_await replica::list_generations(store);
      for (const Generation generation : generations) {
        if (only && generation != *only) continue;
        const Listing listing{store, replica.name, generation, table};
        if (command == "generations") {
          co_await add_generation(listing, written);
        } else if (command == "snapshots") {
          co_await add_snapshots(listing);
        } else {
          co_await add_segments(listing);
        }
      }
    });
  };

  if (source.replicas.size() == 1) {
    list(source.replicas.front());
    table.print(flags.on("json"));
    return 0;
  }
  bool failed = false;
  for (const ReplicaSettings& replica : source.replicas) {
    try {
      list(replica);
    } catch (const Error& error) {
      failed = true;
      log::error("cannot list replica", {{"replica", replica.name}, {"error", error.what()}});
    }
  }
  table.print(flags.on("json"));
  return failed ? 1 : 0;
}

}  // namespace sqlstream::tools
