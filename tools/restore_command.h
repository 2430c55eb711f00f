#pragma once

#include "tools/flags.h"

namespace sqlstream::tools {

/// `sqlstream restore …`, and all of `sqlstream-restore`. Of several replicas it takes the one with
/// the latest data. Throws Error.
int restore_command(const ParsedFlags& flags);

}  // namespace sqlstream::tools
