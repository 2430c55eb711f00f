#include "store/s3/metadata_credentials.h"

#include <string>

#include <nlohmann/json.hpp>

namespace sqlstream {

std::optional<Credentials> parse_metadata_credentials(ByteView json) {
  const auto document = nlohmann::json::parse(json.begin(), json.end(), nullptr, false);
  if (!document.is_object()) return {};
  const auto text = [&](const char* name) {
    const auto found = document.find(name);
    return found != document.end() && found->is_string() ? found->get<std::string>()
                                                         : std::string();
  };
  Credentials credentials{{text("AccessKeyId"), text("SecretAccessKey"), text("Token")},
                          parse_rfc3339(text("Expiration"))};
  if (!credentials.keys.complete()) return {};
  return credentials;
}

}  // namespace sqlstream
