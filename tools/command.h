#pragma once

#include <functional>
#include <string>
#include <vector>

namespace sqlstream::tools {

using Words = std::vector<std::string>;

/// Runs a command of the program `program` and returns its exit code: what it throws becomes one
/// sentence on stderr and code 1, or for a UsageError `usage` too and code 2.
int run_command_line(const std::string& program, const std::string& usage,
                     const std::function<int()>& command);

}  // namespace sqlstream::tools
