#pragma once

#include <string>

#include "tools/commands.h"

/// Completion scripts for shells, written from the table of commands.
namespace sqlstream::tools {

std::string bash_completion(const ProgramShape& program);
std::string zsh_completion(const ProgramShape& program);
std::string fish_completion(const ProgramShape& program);

}  // namespace sqlstream::tools
