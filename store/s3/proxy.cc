#include "store/s3/proxy.h"

#include <algorithm>

#include "base/error.h"

namespace sqlstream::http {
namespace {

using Environment = std::function<std::optional<std::string>(const std::string&)>;

std::optional<Url> proxy_url(const Environment& env, const std::string& lower,
                             const std::string& upper) {
  std::string name = lower;
  std::optional<std::string> text = env(lower);
  if (!text || text->empty()) text = env(name = upper);
  if (!text || text->empty()) return {};
  auto url = parse_url(text->find("://") == std::string::npos ? "http://" + *text : *text);
  // The value is not shown: it may hold a password.
  if (!url || url->origin.tls)
    throw Error("the environment variable " + name +
                " does not name a proxy; it should be http://host:port");
  return url;
}

bool matches(const std::string& host, const std::string& exception) {
  if (exception == "*" || exception == host) return true;
  std::string domain = exception;
  if (domain.starts_with("*.")) domain.erase(0, 1);
  if (!domain.starts_with('.')) domain = '.' + domain;
  return host.ends_with(domain) || "." + host == domain;
}

}  // namespace

Proxies Proxies::from(const Environment& env) {
  Proxies proxies;
  proxies.https = proxy_url(env, "https_proxy", "HTTPS_PROXY");
  // In a CGI program HTTP_PROXY is a header that the client sent.
  const bool cgi = env("REQUEST_METHOD").has_value();
  proxies.http = proxy_url(env, "http_proxy", cgi ? "http_proxy" : "HTTP_PROXY");
  std::string list = env("no_proxy").value_or("");
  if (list.empty()) list = env("NO_PROXY").value_or("");
  list = to_lower(list);
  std::replace(list.begin(), list.end(), ',', ' ');
  std::size_t begin = 0;
  while ((begin = list.find_first_not_of(" \t", begin)) != std::string::npos) {
    const std::size_t end = std::min(list.find_first_of(" \t", begin), list.size());
    proxies.exceptions.push_back(list.substr(begin, end - begin));
    begin = end;
  }
  return proxies;
}

const Url* Proxies::for_origin(const Origin& origin) const {
  const auto& proxy = origin.tls ? https : http;
  if (!proxy) return nullptr;
  if (origin.host == "localhost" || origin.host.ends_with(".localhost") ||
      origin.host.starts_with("127.") || origin.host == "::1")
    return nullptr;
  const std::string with_port = origin.host + ":" + std::to_string(origin.port);
  for (const std::string& exception : exceptions) {
    if (matches(origin.host, exception) || exception == with_port) return nullptr;
  }
  return &*proxy;
}

}  // namespace sqlstream::http
