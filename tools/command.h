#pragma once

#include <functional>
#include <string>

#include "tools/flags.h"

namespace sqlstream::tools {

/// What a program is called, and what its help exits with.
struct Program {
  std::string name;
  int help_code = 0;
};

/// Runs a command, which `called` says as it was called ("sqlstream restore"), and returns the exit
/// code. Asked for help, prints that. What `work` throws becomes one sentence on stderr and code 1;
/// for a UsageError the usage, too, and the command's own code.
int run_command_line(const Program& program, const std::string& called, const Command& command,
                     const Words& words, const std::function<int(const ParsedFlags& flags)>& work);

}  // namespace sqlstream::tools
