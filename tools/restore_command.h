#pragma once

#include <string>

#include "tools/command.h"

namespace sqlstream::tools {

std::string restore_usage(const std::string& program);

/// `sqlstream restore …`, and all of `sqlstream-restore`. Throws UsageError and Error.
int restore_command(const Words& words);

}  // namespace sqlstream::tools
