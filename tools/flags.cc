#include "tools/flags.h"

#include <algorithm>

#include <boost/program_options/parsers.hpp>
#include <boost/program_options/positional_options.hpp>

namespace sqlstream::tools {

po::typed_value<bool>* switch_value() {
  return po::value<bool>()->implicit_value(true)->value_name("");
}

ParsedFlags parse_flags(const std::vector<std::string>& words,
                        const po::options_description& known) {
  namespace style = po::command_line_style;
  po::options_description all;
  all.add(known);
  all.add_options()(" arguments", po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add(" arguments", -1);
  ParsedFlags parsed;
  try {
    po::store(po::command_line_parser(words)
                  .options(all)
                  .positional(positional)
                  .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next |
                         style::allow_long_disguise)
                  .run(),
              parsed.values);
    po::notify(parsed.values);
  } catch (const po::unknown_option& unknown) {
    const std::string name = unknown.get_option_name();
    throw UsageError("unknown flag -" +
                     name.substr(std::min(name.find_first_not_of('-'), name.size())));
  } catch (const po::error& error) {
    throw UsageError(error.what());
  }
  if (parsed.has(" arguments")) {
    parsed.arguments = parsed.values[" arguments"].as<std::vector<std::string>>();
  }
  return parsed;
}

std::string describe_flags(const po::options_description& known) {
  std::string text;
  for (const auto& option : known.options()) {
    std::string flag = "  -" + option->long_name();
    const std::string value = option->format_parameter();
    // Boost writes "[=arg(=1)]" for a switch.
    if (value.front() != '[') flag += " " + value;
    flag.resize(std::max<std::size_t>(flag.size() + 1, 26), ' ');
    text += flag + option->description() + "\n";
  }
  return text;
}

}  // namespace sqlstream::tools
