#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "config/config.h"
#include "config/units.h"

namespace sqlstream::config {

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    if (value == nullptr) return std::nullopt;
    return std::string(value);
  };
}

std::optional<DatabaseSettings> settings_for(const std::string& database_path,
                                             const std::string& replica_uri,
                                             const Environment& env) {
  const auto from_pattern = [&](const std::string& pattern) {
    DatabaseSettings settings;
    settings.path = database_path;
    settings.replicas.push_back(parse_replica_url(expand_replica_url(pattern, database_path), env));
    return settings;
  };

  if (!replica_uri.empty()) return from_pattern(replica_uri);

  const Config config = find_config(env);
  const auto entry = std::find_if(config.databases.begin(), config.databases.end(),
                                  [&](const auto& d) { return d.path == database_path; });
  const bool known = entry != config.databases.end();
  if (known && !entry->replicas.empty()) return *entry;

  const auto pattern = env("SQLSTREAM_REPLICA_URL");
  const bool restored_only = known && entry->restore_if_missing;
  if (!pattern || pattern->empty()) {
    if (restored_only) return *entry;
    return std::nullopt;
  }
  DatabaseSettings settings = from_pattern(*pattern);
  if (restored_only) {
    settings.restore_if_missing = true;
    settings.restore_from = entry->restore_from;
  }
  return settings;
}

void set_sync_option(DatabaseSettings& database, std::string_view name, const std::string& value) {
  const auto one_of = [&](const char* otherwise, const char* chosen) {
    if (value != otherwise && value != chosen) {
      throw Error(std::string(name) + " must be " + otherwise + " or " + chosen + ", not \"" +
                  value + '"');
    }
    return value == chosen;
  };
  if (name == "sync-replicas") {
    database.sync_any = one_of("all", "any");
  } else if (name == "sync-policy") {
    database.sync_fail = one_of("degrade", "fail");
  } else {
    const auto limit = parse_sync(value);
    if (!limit) {
      throw Error("sync must be off, on, milliseconds or a duration such as 500ms, not \"" + value +
                  '"');
    }
    database.sync = *limit;
  }
}

}  // namespace sqlstream::config
