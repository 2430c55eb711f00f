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

namespace {

// The database's entry in the configuration, else an empty one. With a replica of its own it does
// not depend on a file that nobody named.
DatabaseSettings entry_of(const std::string& path, bool has_replica, const Environment& env,
                          const Reading& reading) {
  Config config;
  try {
    config = find_config(env, reading);
  } catch (const NamedConfigError&) {
    throw;
  } catch (const Error& error) {
    if (!has_replica) throw;
    log::warn(std::string("without its settings: ") + error.what(), {{"db", path}});
  }
  for (DatabaseSettings& database : config.databases) {
    if (database.path == path) return std::move(database);
  }
  DatabaseSettings none;
  none.path = path;
  return none;
}

}  // namespace

std::optional<DatabaseSettings> settings_for(const std::string& database_path,
                                             const std::string& replica_uri, const Environment& env,
                                             const Reading& reading) {
  DatabaseSettings settings = entry_of(database_path, !replica_uri.empty(), env, reading);
  std::string pattern = replica_uri;
  if (pattern.empty() && settings.replicas.empty()) {
    pattern = env("SQLSTREAM_REPLICA_URL").value_or("");
  }
  if (!pattern.empty()) {
    settings.replicas = {parse_replica_url(expand_replica_url(pattern, database_path), env)};
  }
  if (settings.replicas.empty() && !settings.restore_if_missing) return std::nullopt;
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
    database.sync_terms.any = one_of("all", "any");
  } else if (name == "sync-policy") {
    database.sync_terms.fail = one_of("degrade", "fail");
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
