#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "tools/commands.h"

namespace sqlstream::tools {

using Words = std::vector<std::string>;

/// A command line that was not understood.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// A command line taken apart, in Go's way, as Litestream's are: one dash or two, "-flag value" or
/// "-flag=value", the last of several counts. Flags may stand behind arguments, too; behind "--"
/// everything is an argument.
struct ParsedFlags {
  std::map<std::string, std::string, std::less<>> values;
  Words arguments;
  bool help = false;  ///< -h or -help was among them

  /// The value, where one was given.
  std::optional<std::string> text(std::string_view name) const;
  /// A switch: given, and not as "=false".
  bool on(std::string_view name) const;
};

/// Throws UsageError for flags that `command` does not take, Error for an empty value.
ParsedFlags parse_flags(const Words& words, const Command& command);

/// The only argument. Throws Error when there is none, or more.
const std::string& single_argument(const ParsedFlags& flags);

/// The value of a flag that takes a duration such as 500ms or 1m30s. Throws Error for others.
std::chrono::nanoseconds duration_flag(const ParsedFlags& flags, std::string_view name,
                                       std::chrono::nanoseconds otherwise);

/// Throws Error when there are arguments.
void refuse_arguments(const ParsedFlags& flags);

}  // namespace sqlstream::tools
