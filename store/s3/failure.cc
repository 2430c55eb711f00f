#include "store/s3/failure.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "store/s3/xml.h"

namespace sqlstream {
namespace {

using Kind = StoreError::Kind;

/// The code for answers that come without a document (HEAD, proxies, other servers).
std::string code_for_status(int status) {
  switch (status) {
    case 301:
    case 307:
      return "PermanentRedirect";
    case 403:
      return "AccessDenied";
    case 404:
      return "NoSuchKey";
    case 412:
      return "PreconditionFailed";
    case 429:
    case 503:
      return "SlowDown";
    default:
      return "";
  }
}

struct Meaning {
  const char* code;
  Kind kind;
  const char* text;
};

constexpr std::size_t kMostSaid = 300;  // characters of a service's own words

constexpr Meaning kMeanings[] = {
    {"NoSuchKey", Kind::not_found, "there is no such object"},
    {"NoSuchBucket", Kind::no_bucket,
     "the bucket does not exist; create it, or correct the replica's URL"},
    {"InvalidBucketName", Kind::rejected,
     "that is no valid name of a bucket; correct the replica's URL"},
    {"InvalidAccessKeyId", Kind::denied,
     "the access key id is not known there; correct the credentials"},
    {"SignatureDoesNotMatch", Kind::denied,
     "the secret access key is wrong; correct the credentials"},
    {"ExpiredToken", Kind::denied, "the session token has expired; renew the credentials"},
    {"TokenRefreshRequired", Kind::denied, "the session token has expired; renew the credentials"},
    {"InvalidToken", Kind::denied, "the session token is not valid; renew the credentials"},
    {"AccessDenied", Kind::denied,
     "access is denied; let this access key list, read, write and delete in the bucket"},
    {"AccountProblem", Kind::denied, "the account cannot be used; ask the service"},
    {"RequestTimeTooSkewed", Kind::rejected,
     "this machine's clock is too far from the service's; set it"},
    {"PreconditionFailed", Kind::exists, "there is an object of that name already"},
    {"XMinioStorageFull", Kind::no_space, "the service's disk is full"},
    {"QuotaExceeded", Kind::no_space, "the bucket's quota is used up"},
    {"XMinioAdminBucketQuotaExceeded", Kind::no_space, "the bucket's quota is used up"},
};

}  // namespace

S3Failure refusal(const S3Context& context, const http::Response& response) {
  const auto body = xml::parse_error(response.body);
  const std::string code =
      body && !body->code.empty() ? body->code : code_for_status(response.status);
  const std::string start = "cannot " + context.action + " at " + context.endpoint + ": ";
  for (const Meaning& meaning : kMeanings) {
    if (code == meaning.code) return {meaning.kind, start + meaning.text, response.status, code};
  }
  const std::string region = region_hint(response);
  if (!region.empty())
    return {Kind::rejected,
            start + "the bucket is in the region " + region + "; set that as the replica's region",
            response.status, code};
  std::string said = "HTTP " + std::to_string(response.status);
  if (!code.empty()) said += ", " + code;
  if (body && !body->message.empty()) said += ": " + body->message.substr(0, kMostSaid);
  if (is_transient(response.status, code))
    return {Kind::unavailable, start + "the service is failing or overloaded (" + said + ")",
            response.status, code};
  if (response.status == 403)
    return {Kind::denied, start + "access is denied (" + said + ")", response.status, code};
  if (response.status == 507)
    return {Kind::no_space, start + "the service is full", response.status, code};
  return {Kind::rejected,
          start + "the service refuses (" + said + ")" +
              (body ? "" : "; is there an S3 service at that endpoint?"),
          response.status, code};
}

bool is_transient(int status, const std::string& code) {
  static constexpr std::array<std::string_view, 12> kCodes{"SlowDown",
                                                           "SlowDownRead",
                                                           "SlowDownWrite",
                                                           "RequestTimeout",
                                                           "RequestTimeoutException",
                                                           "InternalError",
                                                           "ServiceUnavailable",
                                                           "Throttling",
                                                           "ThrottlingException",
                                                           "RequestLimitExceeded",
                                                           "ConditionalRequestConflict",
                                                           "OperationAborted"};
  if (std::find(kCodes.begin(), kCodes.end(), code) != kCodes.end()) return true;
  return status == 408 || status == 429 || (status >= 500 && status != 501 && status != 507);
}

std::string region_hint(const http::Response& response) {
  if (response.status != 301 && response.status != 307 && response.status != 400 &&
      response.status != 403)
    return {};
  std::string region;
  if (const auto header = response.header("x-amz-bucket-region")) {
    region = *header;
  } else if (const auto body = xml::parse_error(response.body)) {
    region = body->region;
  }
  // It becomes a label of the host name that is asked, with the credentials.
  const auto is_fit = [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_'; };
  const bool valid = region.size() <= 63 && std::ranges::all_of(region, is_fit);
  return valid ? region : std::string();
}

}  // namespace sqlstream
