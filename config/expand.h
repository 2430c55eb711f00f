#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace sqlstream::config {

struct Expanded {
  std::string text;
  std::vector<std::string> used;   ///< the variables it names, in their order
  std::vector<std::string> unset;  ///< those that are not set, put in as nothing
};

/// Puts environment variables in for "$NAME" and "${NAME}". A '$' before anything else stands for
/// itself. Throws Error for a "${" that is not the start of a "${NAME}".
Expanded expand_variables(std::string_view text, const Environment& env);

}  // namespace sqlstream::config
