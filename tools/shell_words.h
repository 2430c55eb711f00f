#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sqlstream::tools {

/// A command line taken apart as a shell does, without one: words between blanks, single and double
/// quotes, and backslashes (within double quotes only before ", \, $ and `). Nothing is expanded.
/// Throws Error for a quote without its end.
std::vector<std::string> shell_words(std::string_view line);

}  // namespace sqlstream::tools
