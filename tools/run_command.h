#pragma once

#include <string>

#include "tools/command.h"

namespace sqlstream::tools {

std::string run_usage();

/// `sqlstream run [-replica URL] -- CMD ARGS`: runs CMD with the preload library and returns its
/// exit code. Throws UsageError and Error.
int run_command(const Words& words);

}  // namespace sqlstream::tools
