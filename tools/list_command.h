#pragma once

#include <string>

#include "tools/command.h"

namespace sqlstream::tools {

/// "generations", "snapshots" and "wal": what a replica holds, in Litestream's columns.
bool is_list_command(const std::string& command);
std::string list_usage(const std::string& command);
/// Throws UsageError and Error.
int list_command(const std::string& command, const Words& words);

}  // namespace sqlstream::tools
