#include "tools/replica_argument.h"

#include "config/config.h"

namespace sqlstream::tools {

ReplicaArgument resolve_replica(const std::string& argument) {
  const auto environment = config::process_environment();
  if (argument.find("://") == std::string::npos) {
    const std::string path = config::canonical_path(argument);
    for (const auto& database : config::find_config(environment).databases) {
      if (database.path == path && !database.replicas.empty()) {
        return {database.replicas.front(), path};
      }
    }
    if (argument.empty() || argument.front() != '/') {
      throw Error("\"" + argument +
                  "\" is neither a replica URL (s3://bucket/path, file:///path) nor a database of "
                  "the configuration file");
    }
  }
  return {config::parse_replica_url(argument, environment), {}};
}

Generation parse_generation_flag(const ParsedFlags& flags) {
  const auto text = flags.values["generation"].as<std::string>();
  const auto generation = Generation::parse(text);
  if (!generation) {
    throw UsageError("-generation must be 16 lower-case hexadecimal digits, not \"" + text + "\"");
  }
  return *generation;
}

}  // namespace sqlstream::tools
