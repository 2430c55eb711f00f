#include "tools/config_command.h"

#include "config/explain.h"
#include "tools/source.h"
#include "tools/table.h"

namespace sqlstream::tools {
namespace {

// Why it is this file.
std::string chosen_by(const ParsedFlags& flags, const config::Environment& env) {
  if (flags.text("config")) return "flag -config";
  for (const char* name : {"SQLSTREAM_CONFIG", "LITESTREAM_CONFIG"}) {
    if (!env(name).value_or("").empty()) return std::string("environment variable ") + name;
  }
  return "default";
}

config::Config part_asked_for(const ParsedFlags& flags, config::Config config,
                              const config::Environment& env) {
  if (flags.arguments.empty()) return config;
  return config::part_for(config, canonical_database(single_argument(flags)), env);
}

}  // namespace

int config_command(const ParsedFlags& flags) {
  const auto env = config::process_environment();
  const config::Config config = part_asked_for(flags, load_config_if_any(flags), env);
  Table table({"database", "replica", "setting", "value", "origin"});
  if (config.file.empty()) {
    table.add({"", "", "file", "none",
               "looked for in SQLSTREAM_CONFIG, LITESTREAM_CONFIG, " + usual_places()});
  } else {
    table.add({"", "", "file", config.file, chosen_by(flags, env)});
  }
  for (const config::Setting& setting : config::explain(config, env)) {
    table.add({setting.database, setting.replica, setting.key, setting.value, setting.origin});
  }
  for (const DatabaseSettings& database : config.databases) {
    if (database.replicas.empty()) {
      table.add({database.path, "", "replica", "none", "default"});
    }
  }
  // What the databases get that are not in the file.
  const auto pattern = env("SQLSTREAM_REPLICA_URL").value_or("");
  if (flags.arguments.empty() && !pattern.empty()) {
    config::parse_replica_url(config::expand_replica_url(pattern, "/database"), env);
    table.add({"(others)", "", "replica", pattern, "environment variable SQLSTREAM_REPLICA_URL"});
  }
  table.print(flags.on("json"));
  return 0;
}

}  // namespace sqlstream::tools
