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

}  // namespace

int config_command(const ParsedFlags& flags) {
  refuse_arguments(flags);
  const auto env = config::process_environment();
  const config::Config config = load_config(flags);
  Table table({"database", "replica", "setting", "value", "origin"});
  table.add({"", "", "file", config.file, chosen_by(flags, env)});
  for (const config::Setting& setting : config::explain(config, env)) {
    table.add({setting.database, setting.replica, setting.key, setting.value, setting.origin});
  }
  // What the databases get that are not in the file.
  if (const auto pattern = env("SQLSTREAM_REPLICA_URL").value_or(""); !pattern.empty()) {
    config::parse_replica_url(config::expand_replica_url(pattern, "/database"), env);
    table.add({"(others)", "", "replica", pattern, "environment variable SQLSTREAM_REPLICA_URL"});
  }
  table.print(flags.on("json"));
  return 0;
}

}  // namespace sqlstream::tools
