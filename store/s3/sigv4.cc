#include "store/s3/sigv4.h"

#include <cstdio>
#include <map>

namespace sqlstream::sigv4 {
namespace {

/// "20130524T000000Z"
std::string amz_date(Time time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  const auto days = std::chrono::floor<std::chrono::days>(seconds);
  const std::chrono::year_month_day date(days);
  const std::chrono::hh_mm_ss clock(seconds - days);
  char text[32];
  std::snprintf(text, sizeof text, "%04d%02u%02uT%02d%02d%02dZ", static_cast<int>(date.year()),
                static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()),
                static_cast<int>(clock.seconds().count()));
  return text;
}

}  // namespace

const crypto::Sha256& SigningKey::derive(const std::string& secret, const Scope& scope,
                                         const std::string& day) {
  if (secret == secret_ && scope == scope_ && day == day_) return key_;
  day_.clear();  // for nothing, until all of it is there
  key_ = crypto::hmac_sha256(as_bytes("AWS4" + secret), day);
  key_ = crypto::hmac_sha256(key_, scope.region);
  key_ = crypto::hmac_sha256(key_, scope.service);
  key_ = crypto::hmac_sha256(key_, "aws4_request");
  secret_ = secret;
  scope_ = scope;
  day_ = day;
  return key_;
}

void sign(http::Request& request, const Keys& keys, const Scope& scope, Time time,
          std::string_view payload_sha256_hex, SigningKey& key) {
  const std::string date = amz_date(time);
  const std::string day = date.substr(0, 8);
  request.headers.emplace_back("x-amz-date", date);
  request.headers.emplace_back("x-amz-content-sha256", payload_sha256_hex);
  if (!keys.session_token.empty())
    request.headers.emplace_back("x-amz-security-token", keys.session_token);

  std::map<std::string, std::string> signed_headers{{"host", request.origin.authority()}};
  for (const auto& [name, value] : request.headers) signed_headers[http::to_lower(name)] = value;
  std::string canonical_headers;
  std::string names;
  for (const auto& [name, value] : signed_headers) {
    canonical_headers += name + ':' + value + '\n';
    names += (names.empty() ? "" : ";") + name;
  }
  const std::string canonical_request =
      request.method + '\n' + request.path + '\n' + http::encode_query(request.query) + '\n' +
      canonical_headers + '\n' + names + '\n' + std::string(payload_sha256_hex);

  const std::string credential_scope =
      day + '/' + scope.region + '/' + scope.service + "/aws4_request";
  const std::string to_sign = "AWS4-HMAC-SHA256\n" + date + '\n' + credential_scope + '\n' +
                              crypto::hex(crypto::sha256(as_bytes(canonical_request)));
  const crypto::Sha256 signature =
      crypto::hmac_sha256(key.derive(keys.secret_access_key, scope, day), to_sign);
  request.headers.emplace_back("Authorization",
                               "AWS4-HMAC-SHA256 Credential=" + keys.access_key_id + '/' +
                                   credential_scope + ",SignedHeaders=" + names +
                                   ",Signature=" + crypto::hex(signature));
}

}  // namespace sqlstream::sigv4
