#include "store/settings.h"

namespace sqlstream {

std::string StoreSettings::url() const {
  if (type == Type::file) return "file://" + path;
  return "s3://" + bucket + (path.empty() ? "" : "/" + path);
}

}  // namespace sqlstream
