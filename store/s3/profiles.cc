#include "store/s3/profiles.h"

#include <algorithm>

#include "store/s3/http.h"

namespace sqlstream {
namespace {

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace

void read_profiles(std::string_view text, bool is_config, Profiles& profiles) {
  Profile* profile = nullptr;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view whole = text.substr(0, end);
    const std::string_view line = trim(whole);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line[0] == '[') {
      std::string_view name = trim(line.substr(1, line.find(']') - 1));
      const bool prefixed = name.starts_with("profile ") || name.starts_with("profile\t");
      if (is_config && prefixed) name = trim(name.substr(8));
      const bool ours = !is_config || prefixed || name == "default";
      profile = ours ? &profiles[std::string(name)] : nullptr;
      continue;
    }
    const std::size_t equals = line.find('=');
    const bool nested = whole[0] == ' ' || whole[0] == '\t';
    if (!profile || nested || equals == std::string_view::npos) continue;
    std::string_view value = line.substr(equals + 1);
    // A comment may follow, set off by a space.
    for (const std::string_view mark : {" #", " ;"}) value = value.substr(0, value.find(mark));
    profile->emplace(http::to_lower(trim(line.substr(0, equals))), trim(value));
  }
}

}  // namespace sqlstream
