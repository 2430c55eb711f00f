#pragma once

#include <string>
#include <string_view>

#include "base/clock.h"
#include "store/s3/crypto.h"
#include "store/s3/http.h"

/// AWS Signature Version 4 in the Authorization header. Pure.
/// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
namespace sqlstream::sigv4 {

struct Keys {
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;  ///< empty: none

  bool complete() const { return !access_key_id.empty() && !secret_access_key.empty(); }
  bool operator==(const Keys&) const = default;
};

struct Scope {
  std::string region;
  std::string service;  ///< "s3" or "sts"

  bool operator==(const Scope&) const = default;
};

/// What a secret signs with on one day in one scope, derived anew when one of the three is another.
/// Not thread-safe.
class SigningKey {
 public:
  /// `day` is like "20130524". Valid until the next call.
  const crypto::Sha256& derive(const std::string& secret, const Scope& scope,
                               const std::string& day);

 private:
  std::string secret_;
  Scope scope_;
  std::string day_;
  crypto::Sha256 key_{};
};

/// Adds x-amz-date, x-amz-content-sha256, x-amz-security-token and Authorization, which signs
/// these, the host and every header the request has. Nothing signed may be changed afterwards.
/// `key` is kept by the caller for the next request.
void sign(http::Request& request, const Keys& keys, const Scope& scope, Time time,
          std::string_view payload_sha256_hex, SigningKey& key);

}  // namespace sqlstream::sigv4
