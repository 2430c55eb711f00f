#include "store/s3/xml.h"

#include <sstream>

#include <pugixml.hpp>

#include "store/s3/http.h"

namespace sqlstream::xml {
namespace {

std::optional<pugi::xml_document> parse(ByteView body) {
  pugi::xml_document document;
  if (!document.load_buffer(body.data(), body.size())) return {};
  return document;
}

/// The root element when it has that name.
pugi::xml_node root(const pugi::xml_document& document, const char* name) {
  const pugi::xml_node node = document.document_element();
  return std::string_view(node.name()) == name ? node : pugi::xml_node();
}

std::string text(const pugi::xml_node& node, const char* child) {
  return node.child_value(child);
}

ErrorBody error_of(const pugi::xml_node& node) {
  return {text(node, "Code"), text(node, "Message"), text(node, "Region")};
}

std::string write(const pugi::xml_document& document) {
  std::ostringstream out;
  document.save(out, "", pugi::format_raw | pugi::format_no_declaration);
  return out.str();
}

void add_text(pugi::xml_node& node, const char* name, const std::string& value) {
  node.append_child(name).text().set(value.c_str());
}

}  // namespace

std::optional<ErrorBody> parse_error(ByteView body) {
  const auto document = parse(body);
  if (!document) return {};
  if (const auto error = root(*document, "Error")) return error_of(error);
  if (const auto answer = root(*document, "ErrorResponse")) return error_of(answer.child("Error"));
  return {};
}

std::optional<ListPage> parse_list(ByteView body) {
  const auto document = parse(body);
  if (!document) return {};
  const auto result = root(*document, "ListBucketResult");
  if (!result) return {};
  const bool encoded = text(result, "EncodingType") == "url";
  const auto name = [&](const pugi::xml_node& node, const char* child) {
    return encoded ? http::percent_decode(node.child_value(child), true) : text(node, child);
  };
  ListPage page;
  for (const auto& node : result.children("Contents")) {
    page.objects.push_back({name(node, "Key"), node.child("Size").text().as_ullong(),
                            parse_rfc3339(node.child_value("LastModified")).value_or(Time())});
  }
  for (const auto& node : result.children("CommonPrefixes"))
    page.prefixes.push_back(name(node, "Prefix"));
  if (result.child("IsTruncated").text().as_bool()) {
    page.next_token = text(result, "NextContinuationToken");
    // As of a service that only knows the list's first version: the rest cannot be asked for.
    if (page.next_token.empty()) return {};
  }
  return page;
}

std::optional<std::string> parse_upload_id(ByteView body) {
  const auto document = parse(body);
  if (!document) return {};
  std::string id = text(root(*document, "InitiateMultipartUploadResult"), "UploadId");
  if (id.empty()) return {};
  return id;
}

std::string complete_upload(const std::vector<Part>& parts) {
  pugi::xml_document document;
  auto list = document.append_child("CompleteMultipartUpload");
  list.append_attribute("xmlns").set_value("http://s3.amazonaws.com/doc/2006-03-01/");
  for (const Part& part : parts) {
    auto node = list.append_child("Part");
    add_text(node, "PartNumber", std::to_string(part.number));
    add_text(node, "ETag", part.etag);
  }
  return write(document);
}

bool is_completed(ByteView body) {
  const auto document = parse(body);
  return document && root(*document, "CompleteMultipartUploadResult");
}

std::optional<UploadsPage> parse_uploads(ByteView body) {
  const auto document = parse(body);
  if (!document) return {};
  const auto result = root(*document, "ListMultipartUploadsResult");
  if (!result) return {};
  const bool encoded = text(result, "EncodingType") == "url";
  const auto name = [&](const pugi::xml_node& node, const char* child) {
    return encoded ? http::percent_decode(node.child_value(child), true) : text(node, child);
  };
  UploadsPage page;
  for (const auto& node : result.children("Upload")) {
    page.uploads.push_back({name(node, "Key"), text(node, "UploadId"),
                            parse_rfc3339(node.child_value("Initiated")).value_or(Time::max())});
  }
  if (result.child("IsTruncated").text().as_bool()) {
    page.next_key = name(result, "NextKeyMarker");
    page.next_id = text(result, "NextUploadIdMarker");
  }
  return page;
}

std::string delete_objects(const std::vector<std::string>& keys) {
  pugi::xml_document document;
  auto list = document.append_child("Delete");
  list.append_attribute("xmlns").set_value("http://s3.amazonaws.com/doc/2006-03-01/");
  add_text(list, "Quiet", "true");
  for (const std::string& key : keys) {
    auto node = list.append_child("Object");
    add_text(node, "Key", key);
  }
  return write(document);
}

std::optional<std::vector<DeleteFailure>> parse_delete_result(ByteView body) {
  const auto document = parse(body);
  if (!document) return {};
  const auto result = root(*document, "DeleteResult");
  if (!result) return {};
  std::vector<DeleteFailure> failures;
  for (const auto& node : result.children("Error"))
    failures.push_back({text(node, "Key"), error_of(node)});
  return failures;
}

std::optional<AssumedRole> parse_assumed_role(ByteView body) {
  const auto document = parse(body);
  if (!document) return {};
  const auto node = document->document_element().first_child().child("Credentials");
  const auto expires = parse_rfc3339(node.child_value("Expiration"));
  if (!node || !expires) return {};
  return AssumedRole{text(node, "AccessKeyId"), text(node, "SecretAccessKey"),
                     text(node, "SessionToken"), *expires};
}

}  // namespace sqlstream::xml
