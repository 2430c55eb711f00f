#pragma once

#include <string>

#include "store/s3/http.h"
#include "store/store.h"

/// What S3's refusals mean. Pure.
namespace sqlstream {

/// A StoreError that also tells what the service said.
class S3Failure : public StoreError {
 public:
  S3Failure(Kind kind, const std::string& sentence, int status, std::string code)
      : StoreError(kind, sentence), status(status), code(std::move(code)) {}

  int status;                ///< 0: there was no answer
  std::string code;          ///< S3's error code, or empty
  bool maybe_acted = false;  ///< an earlier attempt may have been carried out, its answer lost
};

/// What was being done, for messages.
struct S3Context {
  std::string action;    ///< "write s3://bucket/key"
  std::string bucket;    ///<
  std::string endpoint;  ///< "https://host"
};

/// The refusal in `response` (not 2xx, or with an error document) as a sentence.
S3Failure refusal(const S3Context& context, const http::Response& response);

/// True when the same request may well succeed a little later.
bool is_transient(int status, const std::string& code);

/// The region a refusal points to; empty: none.
std::string region_hint(const http::Response& response);

}  // namespace sqlstream
