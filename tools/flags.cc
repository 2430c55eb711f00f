#include "tools/flags.h"

#include <algorithm>
#include <utility>

#include <boost/program_options/parsers.hpp>

namespace sqlstream::tools {

po::typed_value<bool>* switch_value() {
  return po::value<bool>()->implicit_value(true)->value_name("");
}

namespace {

// The words as Boost understands them beyond doubt: flags as "--name=value", and then arguments.
struct Split {
  std::vector<std::string> flags;
  std::vector<std::string> arguments;
};

Split split(const std::vector<std::string>& words, const po::options_description& known) {
  Split result;
  for (auto word = words.begin(); word != words.end(); ++word) {
    if (*word == "--") {
      result.arguments.insert(result.arguments.end(), word + 1, words.end());
      break;
    }
    if (word->size() < 2 || word->front() != '-') {
      result.arguments.push_back(*word);
      continue;
    }
    const std::string text = word->substr((*word)[1] == '-' ? 2 : 1);
    const std::size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    const po::option_description* option = name.empty() ? nullptr : known.find_nothrow(name, false);
    if (option == nullptr) throw UsageError("unknown flag " + *word);
    std::string value;
    if (equals != std::string::npos) {
      value = text.substr(equals + 1);
    } else if (option->semantic()->min_tokens() == 0) {
      value = "true";
    } else if (++word == words.end()) {
      throw UsageError("flag -" + name + " needs a value");
    } else {
      value = *word;
    }
    if (value.empty()) throw UsageError("flag -" + name + " needs a value");
    result.flags.push_back("--" + name + "=" + value);
  }
  return result;
}

}  // namespace

ParsedFlags parse_flags(const std::vector<std::string>& words,
                        const po::options_description& known) {
  namespace style = po::command_line_style;
  Split given = split(words, known);
  ParsedFlags parsed;
  parsed.arguments = std::move(given.arguments);
  try {
    po::store(po::command_line_parser(given.flags)
                  .options(known)
                  .style(style::allow_long | style::long_allow_adjacent)
                  .run(),
              parsed.values);
    po::notify(parsed.values);
  } catch (const po::error& error) {
    throw UsageError(error.what());
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
