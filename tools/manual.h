#pragma once

#include <string>

#include "tools/commands.h"

namespace sqlstream::tools {

/// The manual page of a program (section 1), for man(1).
std::string manual_page(const ProgramShape& program);

}  // namespace sqlstream::tools
