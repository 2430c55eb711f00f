#pragma once

#include "tools/flags.h"

namespace sqlstream::tools {

/// "config": the settings that are in force, and where each comes from. Throws Error.
int config_command(const ParsedFlags& flags);

}  // namespace sqlstream::tools
