#pragma once

#include "tools/flags.h"

namespace sqlstream::tools {

/// "status": how replication stands, from outside of the programs that replicate. 1 when a replica
/// is further behind than -max-lag. Throws Error.
int status_command(const ParsedFlags& flags);

}  // namespace sqlstream::tools
