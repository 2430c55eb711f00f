#pragma once

#include <chrono>
#include <string>

#include "tools/flags.h"

namespace sqlstream::tools {

/// "databases": those of the configuration file. Throws Error.
int databases_command(const ParsedFlags& flags);

/// "generations", "snapshots" and "wal": what replicas hold, in Litestream's columns. One replica
/// that cannot be read hides none of the others, but makes it a failure. Throws Error.
int list_command(const std::string& command, const ParsedFlags& flags);

/// As Litestream shows a lag: with fewer digits the longer it is.
std::string shown_lag(std::chrono::nanoseconds lag);

}  // namespace sqlstream::tools
