#include "config/expand.h"

#include "base/error.h"

namespace sqlstream::config {
namespace {

// How much of the front of `text` is a variable's name.
std::size_t name_length(std::string_view text) {
  std::size_t n = 0;
  for (; n < text.size(); ++n) {
    const char c = text[n];
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if (!letter && (n == 0 || c < '0' || c > '9')) break;
  }
  return n;
}

}  // namespace

Expanded expand_variables(std::string_view text, const Environment& env) {
  Expanded result;
  while (!text.empty()) {
    const auto dollar = text.find('$');
    result.text += text.substr(0, dollar);
    if (dollar == std::string_view::npos) break;
    text.remove_prefix(dollar + 1);

    const bool braces = text.starts_with('{');
    if (braces) text.remove_prefix(1);
    const std::size_t length = name_length(text);
    if (braces && (length == 0 || length == text.size() || text[length] != '}')) {
      throw Error(
          "\"${\" is not followed by a variable's name and \"}\": complete it, or read the file "
          "without expansion");
    }
    if (length == 0) {
      result.text += '$';
      continue;
    }
    const std::string name(text.substr(0, length));
    text.remove_prefix(length + (braces ? 1 : 0));
    result.used.push_back(name);
    if (const auto value = env(name)) {
      result.text += *value;
    } else {
      result.unset.push_back(name);
    }
  }
  return result;
}

}  // namespace sqlstream::config
