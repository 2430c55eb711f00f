#pragma once

#include <string>

#include "format/position.h"
#include "shipper/settings.h"
#include "tools/flags.h"

namespace sqlstream::tools {

/// The replica that a command's argument names.
struct ReplicaArgument {
  ReplicaSettings replica;
  std::string database;  ///< of the configuration file; empty: the argument is a URL
};

/// A replica URL, or the path of a database that a configuration file knows. Throws Error.
ReplicaArgument resolve_replica(const std::string& argument);

/// The value of -generation. Throws UsageError.
Generation parse_generation_flag(const ParsedFlags& flags);

}  // namespace sqlstream::tools
