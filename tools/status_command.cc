#include "tools/status_command.h"

#include <cstdio>
#include <thread>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "capture/outbox.h"
#include "config/units.h"
#include "format/hex.h"
#include "shipper/overview.h"
#include "shipper/sqlite_version.h"
#include "tools/list_command.h"
#include "tools/progress.h"
#include "tools/source.h"
#include "tools/table.h"

namespace sqlstream::tools {
namespace {

using Json = nlohmann::ordered_json;
using std::chrono::nanoseconds;

constexpr auto kWatchInterval = std::chrono::seconds(2);

std::string shown_time(Time time) {
  if (time == Time{}) return "-";
  return format_rfc3339(std::chrono::floor<std::chrono::seconds>(time));
}

std::string shown_shipping(const DatabaseOverview& database, const ReplicaOverview& replica) {
  if (!database.shipping) return "none";
  return replica.pid == 0 ? "yes" : "pid " + std::to_string(replica.pid);
}

std::string shown_sqlite(int version) {
  if (version == 0) return "-";
  return sqlite_version_text(version) + (has_wal_reset_bug(version) ? " (WAL-reset bug)" : "");
}

std::string shown_error(const ReplicaOverview& replica) {
  const ValidationState& validation = replica.validation;
  if (!replica.error.empty()) {
    if (replica.error_since == Time{}) return replica.error;
    return replica.error + " (since " + shown_time(replica.error_since) + ')';
  }
  if (validation.error.empty()) return "-";
  return "verification failed: " + validation.error + " (since " +
         shown_time(validation.error_since) + ')';
}

std::string as_table(const std::vector<DatabaseOverview>& databases) {
  Table table({"database", "replica", "state", "lag", "generation", "position", "outbox",
               "snapshot", "sqlite", "shipping", "error"});
  for (const auto& database : databases) {
    for (const auto& replica : database.replicas) {
      const bool known = replica.sequence != 0;
      table.add(
          {database.path, replica.name, name_of(database.state),
           replica.lag ? shown_lag(*replica.lag) : "unknown",
           known ? replica.generation.str() : "-",
           known ? to_hex(replica.position.index, 8) + ':' + to_hex(replica.position.offset, 8)
                 : "-",
           describe_bytes(database.outbox_bytes), shown_time(replica.snapshot),
           shown_sqlite(replica.sqlite), shown_shipping(database, replica), shown_error(replica)});
    }
  }
  return table.text();
}

Json as_json(const DatabaseOverview& database, const ReplicaOverview& replica) {
  const auto add_time = [](Json& json, const char* key, Time time) {
    if (time != Time{}) json[key] = format_rfc3339(time);
  };
  Json json{{"database", database.path},
            {"replica", replica.name},
            {"url", replica.url},
            {"state", name_of(database.state)}};
  json["lag_ms"] = replica.lag
                       ? Json(std::chrono::ceil<std::chrono::milliseconds>(*replica.lag).count())
                       : Json(nullptr);
  if (replica.sequence != 0) {
    json["generation"] = replica.generation.str();
    json["index"] = replica.position.index;
    json["offset"] = replica.position.offset;
    json["sequence"] = replica.sequence;
  }
  json["outbox_bytes"] = database.outbox_bytes;
  add_time(json, "degraded_since", database.degraded_since);
  add_time(json, "last_commit", database.last_commit);
  add_time(json, "snapshot", replica.snapshot);
  json["shipping"] = database.shipping;
  if (database.shipping && replica.pid != 0) json["pid"] = replica.pid;
  if (replica.sqlite != 0) {
    json["sqlite"] = sqlite_version_text(replica.sqlite);
    json["sqlite_wal_reset_bug"] = has_wal_reset_bug(replica.sqlite);
  }
  if (!replica.error.empty()) {
    json["error"] = replica.error;
    add_time(json, "error_since", replica.error_since);
  }
  add_time(json, "verified", replica.validation.verified);
  if (!replica.validation.error.empty()) {
    json["verify_error"] = replica.validation.error;
    add_time(json, "verify_error_since", replica.validation.error_since);
  }
  return json;
}

std::string as_json(const std::vector<DatabaseOverview>& databases) {
  Json array = Json::array();
  for (const auto& database : databases) {
    for (const auto& replica : database.replicas) array.push_back(as_json(database, replica));
  }
  // A path need not be UTF-8.
  return array.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

// What cannot be read is no reason to say nothing of the others.
DatabaseOverview looked_at(const DatabaseSettings& settings) {
  try {
    return overview_of(settings);
  } catch (const Error& e) {
    DatabaseOverview overview;
    overview.path = settings.path;
    overview.state = DatabaseOverview::State::unknown;
    for (const auto& each : settings.replicas) {
      auto& replica = overview.replicas.emplace_back();
      replica.name = each.name;
      replica.url = each.store.url();
      replica.error = e.what();
    }
    return overview;
  }
}

// Says what is too far behind. A database that was not created yet is behind nothing; one that is
// asked for, or has an outbox, should be there.
bool exceeds(const std::vector<DatabaseSettings>& settings,
             const std::vector<DatabaseOverview>& databases, bool named, nanoseconds limit) {
  bool any = false;
  for (std::size_t i = 0; i < databases.size(); ++i) {
    const auto& database = databases[i];
    if (database.state == DatabaseOverview::State::missing) {
      const std::string outbox =
          capture::OutboxPlace::directory_of(database.path, settings[i].outbox_dir);
      if (!named && ::access(outbox.c_str(), F_OK) != 0) continue;
      any = true;
      std::fprintf(stderr, "sqlstream: there is no database %s\n", database.path.c_str());
      continue;
    }
    for (const auto& replica : database.replicas) {
      if (replica.lag && *replica.lag <= limit) continue;
      any = true;
      std::fprintf(stderr, "sqlstream: replica %s of %s is behind by %s, more than %s\n",
                   replica.name.c_str(), database.path.c_str(),
                   replica.lag ? shown_lag(*replica.lag).c_str() : "an unknown time",
                   config::format_duration(limit).c_str());
    }
  }
  return any;
}

std::vector<DatabaseSettings> chosen_databases(const ParsedFlags& flags) {
  if (!flags.arguments.empty()) return {replicated_database(flags, single_argument(flags))};
  return load_config(flags).databases;
}

}  // namespace

int status_command(const ParsedFlags& flags) {
  const auto databases = chosen_databases(flags);
  const bool named = !flags.arguments.empty();
  const bool limited = flags.text("max-lag").has_value();
  const auto limit = duration_flag(flags, "max-lag", nanoseconds(0));
  const bool watch = flags.on("watch");
  const bool clear = watch && !flags.on("json") && ::isatty(STDOUT_FILENO) == 1;
  while (true) {
    std::vector<DatabaseOverview> overviews;
    for (const auto& database : databases) overviews.push_back(looked_at(database));
    const std::string text = flags.on("json") ? as_json(overviews) : as_table(overviews);
    if (clear) std::fputs("\x1b[H\x1b[J", stdout);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    if (limited && exceeds(databases, overviews, named, limit)) return 1;
    if (!watch || std::ferror(stdout) != 0) return 0;
    std::this_thread::sleep_for(kWatchInterval);
  }
}

}  // namespace sqlstream::tools
