#pragma once

#include "tools/flags.h"

namespace sqlstream::tools {

/// "sync". Throws Error.
int sync_command(const ParsedFlags& flags);

}  // namespace sqlstream::tools
