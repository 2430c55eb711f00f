#include "store/settings.h"

namespace sqlstream {

std::string StoreSettings::url() const {
  if (type == Type::file) return "file://" + path;
  return "s3://" + bucket + (path.empty() ? "" : "/" + path);
}

std::string StoreSettings::place() const {
  if (type == Type::file || endpoint.empty()) return url();
  std::string server = endpoint;
  const auto local = server.find("://localhost");
  if (local != std::string::npos) server.replace(local + 3, 9, "127.0.0.1");
  return url() + " at " + server;
}

}  // namespace sqlstream
