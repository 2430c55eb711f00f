#pragma once

#include "tools/flags.h"

namespace sqlstream::tools {

/// "replicate": replicates databases that other programs write, until a signal, or with -exec until
/// the program it runs ends, whose exit code it returns. Throws UsageError and Error.
int replicate_command(const ParsedFlags& flags);

}  // namespace sqlstream::tools
