// Answers of an S3 or STS service.

#include "store/s3/xml.h"

#include "test/fuzz/input.h"

using namespace sqlstream;

FUZZ(data, size) {
  const ByteView body(data, size);
  (void)xml::parse_error(body);
  (void)xml::parse_upload_id(body);
  (void)xml::is_completed(body);
  (void)xml::parse_uploads(body);
  (void)xml::parse_delete_result(body);
  (void)xml::parse_assumed_role(body);
  if (const auto page = xml::parse_list(body)) {
    std::vector<std::string> keys;
    std::vector<xml::Part> parts;
    for (const auto& object : page->objects) {
      keys.push_back(object.key);
      parts.push_back({static_cast<int>(parts.size() + 1), object.key});
    }
    // Whatever the keys hold, the requests made of them are of their own form.
    fuzz::require(xml::delete_objects(keys).starts_with("<Delete xmlns="));
    fuzz::require(xml::complete_upload(parts).ends_with("</CompleteMultipartUpload>") ||
                  parts.empty());
  }
  return 0;
}
