#include <filesystem>
#include <set>

#include <boost/url/encode.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/rfc/unreserved_chars.hpp>
#include <boost/url/url_view.hpp>

#include "base/error.h"
#include "config/config.h"
#include "config/endpoints.h"
#include "config/replica_options.h"

namespace sqlstream::config {
namespace {

namespace urls = boost::urls;

// The URL as it may be shown: without query, and without what could be a name and password.
std::string shown(std::string_view url) {
  url = url.substr(0, url.find_first_of("?#"));
  const auto at = url.rfind('@');
  const auto slashes = url.find("://");
  if (at == std::string_view::npos || slashes == std::string_view::npos || at < slashes) {
    return std::string(url);
  }
  return std::string(url.substr(0, slashes + 3)) + "..." + std::string(url.substr(at));
}

[[noreturn]] void fail(std::string_view url, const std::string& why) {
  throw Error("replica URL \"" + shown(url) + "\": " + why);
}

[[noreturn]] void fail_malformed(std::string_view url) {
  // A secret with a '/' in it ends the part where '@' has a meaning: say the likelier thing.
  if (url.find('@') != std::string_view::npos) {
    fail(url,
         "it is malformed; if it holds an access key, take it out and set AWS_ACCESS_KEY_ID and "
         "AWS_SECRET_ACCESS_KEY in the environment, else write special characters as %XX");
  }
  if (url.find("{name}") != url.npos || url.find("{path}") != url.npos) {
    fail(url,
         "{name} and {path} are put in for a database that is opened, or an argument of run or "
         "replicate: write here what they would stand for");
  }
  if (url.find_first_of("{}") != std::string_view::npos) {
    fail(url, "it is malformed: in braces only {name} and {path} have a meaning");
  }
  fail(
      url,
      "it is malformed: write s3://bucket/path or file:///path, with special characters as %XX and "
      "ports from 1 to 65535");
}

// An IPv6 endpoint in the query is written with brackets, which a strict parser refuses there.
std::string encode_brackets(std::string_view url) {
  const auto query = url.find('?');
  if (query == std::string_view::npos) return std::string(url);
  std::string result(url.substr(0, query));
  for (const char c : url.substr(query)) {
    if (c == '[') {
      result += "%5B";
    } else if (c == ']') {
      result += "%5D";
    } else {
      result += c;
    }
  }
  return result;
}

// The decoded path as a key prefix: no empty segments, no leading or trailing '/'.
std::string clean_path(std::string_view whole, const urls::url_view& url) {
  std::string result;
  for (const auto segment : url.encoded_segments()) {
    const std::string text = segment.decode();
    if (text.empty() || text == ".") continue;
    if (text == "..") fail(whole, "its path contains \"..\": write the path without it");
    for (const char c : text) {
      if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) {
        fail(whole, "its path contains a control character: write the path without it");
      }
    }
    if (!result.empty()) result += '/';
    result += text;
  }
  return result;
}

void apply_query(std::string_view whole, const urls::url_view& url, ReplicaSettings& replica) {
  std::set<std::string> seen;
  for (const auto& param : url.encoded_params()) {
    const std::string name = param.key.decode();
    if (name.empty() && !param.has_value) continue;
    if (name == "access-key-id" || name == "secret-access-key" || name == "session-token") {
      fail(whole, name +
                      " does not belong into a URL: set AWS_ACCESS_KEY_ID and "
                      "AWS_SECRET_ACCESS_KEY in the environment instead");
    }
    if (!seen.insert(name).second) fail(whole, name + " is given twice in its query");
    bool known = false;
    try {
      known = set_replica_option(replica, name, param.value.decode());
    } catch (const Error& error) {
      fail(whole, error.what());
    }
    if (known) continue;
    std::string names;
    for (const auto option : replica_option_names()) {
      names += (names.empty() ? "" : ", ") + std::string(option);
    }
    fail(whole, '"' + name + "\" in its query is not known; known are " + names);
  }
}

// Litestream's, of which a URL may hold a user's name, too.
bool is_other_type(std::string_view scheme) {
  return scheme == "abs" || scheme == "gs" || scheme == "gcs" || scheme == "sftp" ||
         scheme == "nats";
}

ReplicaSettings parse_plain_path(std::string_view path, ReplicaSettings replica) {
  replica.name = "file";
  replica.store.path = std::filesystem::path(path).lexically_normal().string();
  while (replica.store.path.size() > 1 && replica.store.path.back() == '/') {
    replica.store.path.pop_back();
  }
  if (replica.store.path == "/") fail(path, "it names no folder: write /folder/name");
  return replica;
}

}  // namespace

ReplicaSettings parse_url_alone(std::string_view url, const ReplicaSettings& defaults) {
  if (url.starts_with('/')) return parse_plain_path(url, defaults);
  if (url.empty()) throw Error("the replica URL is empty: write s3://bucket/path or file:///path");
  if (url.find("://") == std::string_view::npos) {
    fail(url, "it is not a URL: write s3://bucket/path, file:///path or an absolute path");
  }

  const std::string readable = encode_brackets(url);
  const auto parsed = urls::parse_uri(readable);
  if (!parsed) fail_malformed(url);
  const urls::url_view& view = *parsed;
  std::string scheme(view.scheme());
  for (char& c : scheme) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  if (is_other_type(scheme)) {
    fail(url, "replicas of type " + scheme + " are not supported: use s3:// or file://");
  }
  if (view.has_userinfo()) {
    fail(url,
         "it holds a user name or password: take it out and set AWS_ACCESS_KEY_ID and "
         "AWS_SECRET_ACCESS_KEY in the environment instead");
  }
  if (view.has_fragment()) fail(url, "it contains '#': write that as %23");

  ReplicaSettings replica = defaults;
  if (scheme == "s3") {
    replica.store.type = StoreSettings::Type::s3;
    if (view.encoded_host().empty()) fail(url, "it names no bucket: write s3://bucket/path");
    if (view.has_port() && !is_port(std::string_view(view.port()))) fail_malformed(url);
    try {
      set_bucket(replica.store, view.host_address(), std::string_view(view.port()));
    } catch (const Error& error) {
      fail(url, error.what());
    }
    replica.store.path = clean_path(url, view);
  } else if (scheme == "file") {
    const std::string host = view.host();
    if ((!host.empty() && host != "localhost") || view.has_port()) {
      fail(url, "it names a host: write file:/// with three slashes and an absolute path");
    }
    replica.store.path = '/' + clean_path(url, view);
    if (replica.store.path == "/") fail(url, "it names no folder: write file:///folder/name");
  } else {
    fail(url, "its scheme \"" + scheme + "\" is not known: use s3:// or file://");
  }
  replica.name = scheme;
  apply_query(url, view, replica);
  return replica;
}

ReplicaSettings parse_replica_url(std::string_view url, const Environment& env) {
  ReplicaSettings replica = parse_url_alone(url);
  try {
    complete_store(replica.store, env);
  } catch (const Error& error) {
    fail(url, error.what());
  }
  return replica;
}

std::string expand_replica_url(std::string_view pattern, std::string_view database_path) {
  // A plain path is taken as it is, so nothing in it may be encoded.
  const bool plain = pattern.starts_with('/');
  while (database_path.starts_with('/')) database_path.remove_prefix(1);
  const std::string_view name = database_path.substr(database_path.rfind('/') + 1);
  const auto encoded = [&](std::string_view text) {
    return plain ? std::string(text) : urls::encode(text, urls::unreserved_chars + '/');
  };

  std::string result;
  while (!pattern.empty()) {
    if (pattern.starts_with("{name}")) {
      result += encoded(name);
      pattern.remove_prefix(6);
    } else if (pattern.starts_with("{path}")) {
      result += encoded(database_path);
      pattern.remove_prefix(6);
    } else {
      result += pattern.front();
      pattern.remove_prefix(1);
    }
  }
  return result;
}

}  // namespace sqlstream::config
