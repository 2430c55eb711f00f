#pragma once

#include <functional>
#include <optional>
#include <string>

namespace sqlstream::tools {

/// The file that `program` names: itself when it has a slash, else the first executable one in
/// `search_path` (as PATH). Empty when there is none.
std::optional<std::string> find_program(const std::string& program, const std::string& search_path);

/// Why a library cannot be preloaded into this program file, as the end of a sentence about it;
/// empty when it can. Scripts are judged by their interpreter.
std::optional<std::string> why_not_preloadable(const std::string& file,
                                               const std::string& search_path);

}  // namespace sqlstream::tools
