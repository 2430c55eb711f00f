#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"

/// HTTP as plain values: what the pure parts make and read, and the client carries. No I/O.
namespace sqlstream::http {

/// Percent-encodes all but RFC 3986's unreserved characters (and '/' when kept), as SigV4 wants it.
std::string percent_encode(std::string_view text, bool keep_slash);
/// Leaves malformed escapes as they are. `plus_is_space`: as in an HTML form.
std::string percent_decode(std::string_view text, bool plus_is_space);

/// Whom a connection leads to.
struct Origin {
  bool tls = false;
  std::string host;  ///< lower case, an IPv6 address without brackets
  std::uint16_t port = 80;

  auto operator<=>(const Origin&) const = default;
  /// What a Host header says: the port only when it is not the scheme's own.
  std::string authority() const;
  /// "https://host:port", for people.
  std::string str() const;
};

/// "http[s]://[user:password@]host[:port][/path]".
struct Url {
  Origin origin;
  std::string user_info;  ///< decoded; holds a secret
  std::string path;       ///< with its query; empty or beginning with '/'
};
/// Empty when the text is not one.
std::optional<Url> parse_url(std::string_view text);

using Headers = std::vector<std::pair<std::string, std::string>>;
using Query = std::vector<std::pair<std::string, std::string>>;

/// The first header of that name (any case), or nothing.
std::optional<std::string_view> find_header(const Headers& headers, std::string_view name);

/// Sorted and encoded as SigV4 wants it.
std::string encode_query(const Query& query);

struct Request {
  std::string method = "GET";
  Origin origin;
  std::string path = "/";  ///< percent-encoded
  Query query;             ///< not encoded
  Headers headers;         ///< without Host and Content-Length
  ByteView body;           ///< must outlive the request

  /// A longer answer is refused.
  std::uint64_t answer_limit = 16 * 1024 * 1024;
  std::chrono::milliseconds connect_timeout{10'000};  ///< for each address, and for TLS
  std::chrono::milliseconds answer_timeout{60'000};   ///< until it begins

  std::string target() const;
};

struct Response {
  int status = 0;
  Headers headers;
  Bytes body;
  /// It was sent a second time, the first connection having been closed: the first may have acted.
  bool sent_twice = false;

  std::optional<std::string_view> header(std::string_view name) const {
    return find_header(headers, name);
  }
};

/// A Date or Last-Modified header, "Fri, 24 May 2013 00:00:00 GMT".
std::optional<Time> parse_date(std::string_view text);
/// Retry-After: seconds or a date, from now on.
std::optional<std::chrono::milliseconds> parse_retry_after(std::string_view text, Time now);

/// The case of ASCII letters aside.
bool equal_ignoring_case(std::string_view a, std::string_view b);
std::string to_lower(std::string_view text);

}  // namespace sqlstream::http
