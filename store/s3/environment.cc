#include "store/s3/environment.h"

#include <cstdlib>
#include <map>
#include <memory>

namespace sqlstream {

Environment copy_environment() {
  static constexpr const char* kNames[] = {
      "LITESTREAM_ACCESS_KEY_ID",
      "LITESTREAM_SECRET_ACCESS_KEY",
      "AWS_ACCESS_KEY_ID",
      "AWS_SECRET_ACCESS_KEY",
      "AWS_SESSION_TOKEN",
      "AWS_PROFILE",
      "AWS_DEFAULT_PROFILE",
      "AWS_SHARED_CREDENTIALS_FILE",
      "AWS_CONFIG_FILE",
      "AWS_WEB_IDENTITY_TOKEN_FILE",
      "AWS_ROLE_ARN",
      "AWS_ROLE_SESSION_NAME",
      "AWS_REGION",
      "AWS_DEFAULT_REGION",
      "AWS_ENDPOINT_URL_STS",
      "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
      "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "AWS_CONTAINER_AUTHORIZATION_TOKEN",
      "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
      "AWS_EC2_METADATA_DISABLED",
      "AWS_EC2_METADATA_SERVICE_ENDPOINT",
      "AWS_CA_BUNDLE",
      "SSL_CERT_FILE",
      "HOME",
      "http_proxy",
      "HTTP_PROXY",
      "https_proxy",
      "HTTPS_PROXY",
      "no_proxy",
      "NO_PROXY",
      "REQUEST_METHOD",
  };
  const auto values = std::make_shared<std::map<std::string, std::string>>();
  for (const char* name : kNames) {
    if (const char* value = std::getenv(name)) values->emplace(name, value);
  }
  return [values](const std::string& name) -> std::optional<std::string> {
    const auto found = values->find(name);
    if (found == values->end()) return {};
    return found->second;
  };
}

}  // namespace sqlstream
