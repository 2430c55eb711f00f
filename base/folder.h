#pragma once

#include <string>
#include <vector>

namespace sqlstream {

/// The names in a folder, "." and ".." aside, in no order; none where there is no folder, or it may
/// not be read. Instead of std::filesystem's iterators, which end the process when there is no
/// memory. Throws std::bad_alloc, and std::system_error where it cannot be read now.
std::vector<std::string> names_in(const std::string& folder);

}  // namespace sqlstream
