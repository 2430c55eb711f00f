#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"

/// S3's and STS's XML. Pure. The parsers give nothing for text that is not the document they
/// expect.
namespace sqlstream::xml {

struct ErrorBody {
  std::string code;
  std::string message;
  std::string region;  ///< where the bucket is, when the service tells
};
/// <Error>, or STS's <ErrorResponse>.
std::optional<ErrorBody> parse_error(ByteView body);

struct ListPage {
  struct Object {
    std::string key;
    std::uint64_t size = 0;
    Time modified{};
  };
  std::vector<Object> objects;
  std::vector<std::string> prefixes;
  std::string next_token;  ///< empty: the last page
};
std::optional<ListPage> parse_list(ByteView body);

/// InitiateMultipartUploadResult
std::optional<std::string> parse_upload_id(ByteView body);

struct Part {
  int number = 0;
  std::string etag;
};
std::string complete_upload(const std::vector<Part>& parts);
/// True for CompleteMultipartUploadResult; S3 may also answer 200 with an <Error>.
bool is_completed(ByteView body);

struct UploadsPage {
  struct Upload {
    std::string key;
    std::string id;
    Time initiated{};
  };
  std::vector<Upload> uploads;
  std::string next_key;  ///< with next_id; both empty: the last page
  std::string next_id;
};
std::optional<UploadsPage> parse_uploads(ByteView body);

std::string delete_objects(const std::vector<std::string>& keys);
struct DeleteFailure {
  std::string key;
  ErrorBody error;
};
/// DeleteResult: what could not be deleted.
std::optional<std::vector<DeleteFailure>> parse_delete_result(ByteView body);

struct AssumedRole {
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;
  Time expires{};
};
/// AssumeRoleResponse, AssumeRoleWithWebIdentityResponse
std::optional<AssumedRole> parse_assumed_role(ByteView body);

}  // namespace sqlstream::xml
