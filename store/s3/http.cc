#include "store/s3/http.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <ctime>

namespace sqlstream::http {
namespace {

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_unreserved(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.' || c == '_' || c == '~';
}

}  // namespace

std::string percent_encode(std::string_view text, bool keep_slash) {
  constexpr char digits[] = "0123456789ABCDEF";
  std::string encoded;
  encoded.reserve(text.size());
  for (const char c : text) {
    if (is_unreserved(c) || (keep_slash && c == '/')) {
      encoded += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      encoded += {'%', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return encoded;
}

std::string percent_decode(std::string_view text, bool plus_is_space) {
  std::string decoded;
  decoded.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      const int high = hex_value(text[i + 1]);
      const int low = hex_value(text[i + 2]);
      if (high >= 0 && low >= 0) {
        decoded += static_cast<char>(high * 16 + low);
        i += 2;
        continue;
      }
    }
    decoded += plus_is_space && text[i] == '+' ? ' ' : text[i];
  }
  return decoded;
}

std::string Origin::authority() const {
  std::string text = host;
  if (host.find(':') != std::string::npos) text = '[' + host + ']';
  if (port != (tls ? 443 : 80)) {
    text += ':';
    text += std::to_string(port);
  }
  return text;
}

std::string Origin::str() const {
  return (tls ? "https://" : "http://") + authority();
}

std::optional<Url> parse_url(std::string_view text) {
  Url url;
  const std::size_t scheme = text.find("://");
  if (scheme == std::string_view::npos) return {};
  const std::string name = to_lower(text.substr(0, scheme));
  if (name != "http" && name != "https") return {};
  url.origin.tls = name == "https";
  url.origin.port = url.origin.tls ? 443 : 80;
  text.remove_prefix(scheme + 3);

  const std::size_t end = std::min(text.find_first_of("/?#"), text.size());
  url.path = text.substr(end);
  if (!url.path.empty() && url.path[0] != '/') url.path = '/' + url.path;
  text = text.substr(0, end);

  if (const std::size_t at = text.rfind('@'); at != std::string_view::npos) {
    url.user_info = percent_decode(text.substr(0, at), false);
    text.remove_prefix(at + 1);
  }
  std::string_view port;
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) return {};
    url.origin.host = to_lower(text.substr(1, close - 1));
    text.remove_prefix(close + 1);
    if (!text.empty() && text[0] != ':') return {};
    if (!text.empty()) port = text.substr(1);
  } else {
    const std::size_t colon = text.find(':');
    url.origin.host = to_lower(text.substr(0, colon));
    if (colon != std::string_view::npos) port = text.substr(colon + 1);
  }
  if (url.origin.host.empty()) return {};
  if (!port.empty()) {
    const char* last = port.data() + port.size();
    const auto parsed = std::from_chars(port.data(), last, url.origin.port);
    if (parsed.ec != std::errc() || parsed.ptr != last || url.origin.port == 0) return {};
  }
  return url;
}

std::optional<std::string_view> find_header(const Headers& headers, std::string_view name) {
  for (const auto& [key, value] : headers) {
    if (equal_ignoring_case(key, name)) return value;
  }
  return {};
}

std::string encode_query(const Query& query) {
  std::vector<std::string> parts;
  parts.reserve(query.size());
  for (const auto& [name, value] : query)
    parts.push_back(percent_encode(name, false) + '=' + percent_encode(value, false));
  std::sort(parts.begin(), parts.end());
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : "&") + part;
  return text;
}

std::string Request::target() const {
  return query.empty() ? path : path + '?' + encode_query(query);
}

std::optional<Time> parse_date(std::string_view text) {
  char month[4] = {};
  std::tm date{};
  char zone[4] = {};
  if (std::sscanf(std::string(text).c_str(), "%*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d %3s",
                  &date.tm_mday, month, &date.tm_year, &date.tm_hour, &date.tm_min, &date.tm_sec,
                  zone) != 7)
    return {};
  constexpr std::string_view kMonths = "JanFebMarAprMayJunJulAugSepOctNovDec";
  const std::size_t found = kMonths.find(month);
  if (std::string_view(zone) != "GMT" || found == std::string_view::npos || found % 3 != 0)
    return {};
  const std::chrono::year_month_day day(std::chrono::year(date.tm_year),
                                        std::chrono::month(static_cast<unsigned>(found / 3 + 1)),
                                        std::chrono::day(static_cast<unsigned>(date.tm_mday)));
  // Nanoseconds in 64 bits reach from 1678 to 2261.
  if (!day.ok() || date.tm_year < 1678 || date.tm_year > 2261 || date.tm_hour < 0 ||
      date.tm_hour > 23 || date.tm_min < 0 || date.tm_min > 59 || date.tm_sec < 0 ||
      date.tm_sec > 60)
    return {};
  return std::chrono::sys_days(day) + std::chrono::hours(date.tm_hour) +
         std::chrono::minutes(date.tm_min) + std::chrono::seconds(date.tm_sec);
}

std::optional<std::chrono::milliseconds> parse_retry_after(std::string_view text, Time now) {
  unsigned seconds = 0;
  const char* last = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), last, seconds);
  if (parsed.ec == std::errc() && parsed.ptr == last)
    return std::chrono::seconds(std::min(seconds, 86'400U));
  const auto date = parse_date(text);
  if (!date) return {};
  // Their difference need not fit into nanoseconds.
  const auto ms = [](Time time) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch());
  };
  return std::max(ms(*date) - ms(now), std::chrono::milliseconds(0));
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

std::string to_lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), lower);
  return result;
}

}  // namespace sqlstream::http
