#include <algorithm>
#include <cstdlib>

#include "config/config.h"

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

}  // namespace sqlstream::config
