#pragma once

#include <string>
#include <vector>

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/variables_map.hpp>

#include "base/error.h"

namespace sqlstream::tools {

namespace po = boost::program_options;

/// A command line that was not understood.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// Flags in Go's style, as Litestream's are: one dash or two, "-flag value" or "-flag=value",
/// before or after the arguments; behind "--" everything is an argument.
struct ParsedFlags {
  po::variables_map values;
  std::vector<std::string> arguments;
  bool has(const char* name) const { return values.count(name) > 0; }
  /// A switch: given, and not as "=false".
  bool on(const char* name) const { return has(name) && values[name].as<bool>(); }
};

/// A switch for an options_description.
po::typed_value<bool>* switch_value();

/// Throws UsageError.
ParsedFlags parse_flags(const std::vector<std::string>& words,
                        const po::options_description& known);

/// "  -flag VALUE  what it is for" lines.
std::string describe_flags(const po::options_description& known);

}  // namespace sqlstream::tools
