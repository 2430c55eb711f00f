#include "tools/flags.h"

#include <algorithm>

#include "config/units.h"

namespace sqlstream::tools {
namespace {

bool is_flag(const std::string& word) {
  return word.size() > 1 && word.front() == '-';
}

const Flag* find_flag(const Command& command, const std::string& name) {
  const auto found = std::find_if(command.flags.begin(), command.flags.end(),
                                  [&](const Flag& flag) { return flag.name == name; });
  return found == command.flags.end() ? nullptr : &*found;
}

void check_switch(const std::string& name, const std::string& value) {
  if (!value.empty() && config::parse_bool(value)) return;
  throw UsageError("flag -" + name + " must be true or false, not \"" + value + '"');
}

}  // namespace

std::optional<std::string> ParsedFlags::text(std::string_view name) const {
  const auto found = values.find(name);
  if (found == values.end()) return std::nullopt;
  return found->second;
}

bool ParsedFlags::on(std::string_view name) const {
  const auto value = text(name);
  return value && config::parse_bool(*value).value_or(false);
}

ParsedFlags parse_flags(const Words& words, const Command& command) {
  ParsedFlags parsed;
  for (auto word = words.begin(); word != words.end(); ++word) {
    const bool flags_end = *word == "--" || (command.runs_program && !is_flag(*word));
    if (flags_end) {
      parsed.arguments.insert(parsed.arguments.end(), word + (*word == "--" ? 1 : 0), words.end());
      break;
    }
    if (!is_flag(*word)) {
      parsed.arguments.push_back(*word);
      continue;
    }
    const std::string text = word->substr((*word)[1] == '-' ? 2 : 1);
    const std::size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    if (name == "h" || name == "help") {
      parsed.help = true;
      continue;
    }
    const Flag* flag = find_flag(command, name);
    if (flag == nullptr) throw UsageError("flag provided but not defined: -" + name);
    std::string& value = parsed.values[name];
    if (equals != std::string::npos) {
      value = text.substr(equals + 1);
    } else if (flag->value.empty()) {
      value = "true";
    } else if (word + 1 == words.end()) {
      throw UsageError("flag needs an argument: -" + name);
    } else {
      value = *++word;
    }
    if (flag->value.empty()) {
      check_switch(name, value);
    } else if (value.empty()) {
      // Of a shell's variable that is not set: what was wanted is not what there is without it.
      throw Error('-' + name + " is empty: give it a value, or leave it out");
    }
  }
  return parsed;
}

const std::string& single_argument(const ParsedFlags& flags) {
  if (flags.arguments.empty() || flags.arguments.front().empty()) {
    throw Error("database path or replica URL required");
  }
  if (flags.arguments.size() > 1) throw Error("too many arguments");
  return flags.arguments.front();
}

std::chrono::nanoseconds duration_flag(const ParsedFlags& flags, std::string_view name,
                                       std::chrono::nanoseconds otherwise) {
  const auto text = flags.text(name);
  if (!text) return otherwise;
  const auto duration = config::parse_duration(*text);
  if (duration && duration->count() >= 0) return *duration;
  throw Error('-' + std::string(name) + " must be a duration such as 500ms, 1m30s or 24h, not \"" +
              *text + '"');
}

void refuse_arguments(const ParsedFlags& flags) {
  if (!flags.arguments.empty()) throw Error("too many arguments");
}

}  // namespace sqlstream::tools
