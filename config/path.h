#pragma once

#include <string>

#include "config/config.h"

namespace sqlstream::config {

/// `path` with a leading "~" or "~/" replaced by HOME, if it has one.
std::string expand_home(const std::string& path, const Environment& env);

}  // namespace sqlstream::config
