#pragma once

#include "tools/flags.h"

namespace sqlstream::tools {

/// `sqlstream run [-replica URL] -- CMD ARGS`: runs CMD with the preload library and returns its
/// exit code. Throws UsageError and Error.
int run_command(const ParsedFlags& flags);

}  // namespace sqlstream::tools
