#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "store/s3/http.h"

namespace sqlstream::http {

/// Which proxy leads to an origin, by the customary variables. Pure.
struct Proxies {
  std::optional<Url> http;
  std::optional<Url> https;
  std::vector<std::string> exceptions;  ///< NO_PROXY: host names, domains, addresses, "*"

  /// From HTTPS_PROXY, HTTP_PROXY (only lower case when run as CGI), NO_PROXY and their lower-case
  /// forms, which win. Throws Error for a proxy URL that is none.
  static Proxies from(const std::function<std::optional<std::string>(const std::string&)>& env);

  const Url* for_origin(const Origin& origin) const;
};

}  // namespace sqlstream::http
