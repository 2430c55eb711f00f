#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "format/position.h"
#include "tools/flags.h"

namespace sqlstream::tools {

/// The configuration file that -config names, else the usual one. What is wrong with it is logged
/// to stderr; from then on the log goes where the file says, as Litestream's does (with -json
/// always to stderr; with -v at the level debug). Throws Error also when there is none.
config::Config load_config(const ParsedFlags& flags);

/// The same; an empty one when none is named and there is none where they usually are.
config::Config load_config_if_any(const ParsedFlags& flags);

/// Where a configuration file is looked for when none is named: "/etc/sqlstream.yml, …".
std::string usual_places();

/// The log goes to stdout, as Litestream's does.
void log_to_stdout();

/// What a command's argument names.
struct Source {
  std::vector<ReplicaSettings> replicas;  ///< at least one
  std::string database;                   ///< its path; empty: the argument is a URL
};

/// The only argument: a replica URL, or the path of a database of the configuration file, whose
/// replicas -replica filters; without any there the one of SQLSTREAM_REPLICA_URL. Sets up the log.
/// Throws Error.
Source resolve_source(const ParsedFlags& flags);

/// The canonical path of a database that a user named.
std::string canonical_database(const std::string& path);

/// How this command line has the configuration read, as by the VFS: its environment, in which
/// -config names the file.
struct ConfigSource {
  explicit ConfigSource(const ParsedFlags& flags);
  config::Environment environment;
  config::Reading reading;
};

/// The settings that the VFS gives a database, named by its path: those of the configuration file,
/// which -config may name, else of SQLSTREAM_REPLICA_URL. The log goes to stderr from then on,
/// warnings and errors only. Throws Error when it has no replica.
DatabaseSettings replicated_database(const ParsedFlags& flags, const std::string& path);

/// The value of -generation. Throws Error.
std::optional<Generation> generation_flag(const ParsedFlags& flags);

}  // namespace sqlstream::tools
