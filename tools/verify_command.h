#pragma once

#include "tools/flags.h"

namespace sqlstream::tools {

/// "verify". What cannot be verified is told on stderr, each in a sentence, and makes it a failure.
/// Throws Error for a wrong command line or configuration.
int verify_command(const ParsedFlags& flags);

}  // namespace sqlstream::tools
