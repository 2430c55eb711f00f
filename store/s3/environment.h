#pragma once

#include <functional>
#include <optional>
#include <string>

namespace sqlstream {

/// The environment as a function, so that tests need no setenv.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;

/// The variables this room reads, copied now: reading them later from a thread of ours would race
/// with a host program that calls setenv.
Environment copy_environment();

}  // namespace sqlstream
