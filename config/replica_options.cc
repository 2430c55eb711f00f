#include "config/replica_options.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "config/endpoints.h"
#include "config/units.h"

namespace sqlstream::config {
namespace {

using std::chrono::nanoseconds;

struct Option {
  std::string_view name;
  bool s3_only;
  void (*set)(ReplicaSettings& replica, std::string_view name, const std::string& value);
};

bool bool_value(std::string_view name, const std::string& value) {
  if (const auto parsed = parse_bool(value)) return *parsed;
  throw Error(std::string(name) + " must be true or false, not \"" + value + '"');
}

nanoseconds duration_value(std::string_view name, const std::string& value) {
  const auto parsed = parse_duration(value);
  if (!parsed) {
    throw Error(std::string(name) + " must be a duration such as 500ms, 1m30s or 24h, not \"" +
                value + '"');
  }
  if (parsed->count() < 0) {
    throw Error(std::string(name) + " must not be negative, not \"" + value + '"');
  }
  return *parsed;
}

std::uint64_t count_value(std::string_view name, const std::string& value) {
  constexpr std::uint64_t kMost = 1'000'000'000;
  std::uint64_t count = 0;
  const char* end = value.data() + value.size();
  const auto [rest, error] = std::from_chars(value.data(), end, count);
  if (error != std::errc() || rest != end || count > kMost) {
    throw Error(std::string(name) + " must be a number of PUTs a day, 0 for any, not \"" + value +
                '"');
  }
  return count;
}

// A text option of the store.
template <std::string StoreSettings::*member>
void set_text(ReplicaSettings& replica, std::string_view, const std::string& value) {
  replica.store.*member = value;
}

// Sorted by name.
constexpr std::array kOptions = {
    Option{"adaptive", false,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             r.adaptive = count_value(name, value);
           }},
    Option{"ca-file", true, set_text<&StoreSettings::ca_file>},
    Option{"compaction", false,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             r.compaction = bool_value(name, value);
           }},
    Option{"endpoint", true,
           [](ReplicaSettings& r, std::string_view, const std::string& value) {
             r.store.endpoint = normalise_endpoint(value);
           }},
    Option{"exclusive", false,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             r.exclusive = bool_value(name, value);
           }},
    Option{"force-path-style", true,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             r.store.force_path_style = bool_value(name, value);
           }},
    Option{"kms-key-id", true, set_text<&StoreSettings::kms_key_id>},
    Option{"name", false,
           [](ReplicaSettings& r, std::string_view, const std::string& value) { r.name = value; }},
    Option{"profile", true, set_text<&StoreSettings::profile>},
    Option{"region", true, set_text<&StoreSettings::region>},
    Option{"retention", false,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             r.retention = duration_value(name, value);
           }},
    Option{"retention-check-interval", false,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             const nanoseconds interval = duration_value(name, value);
             r.retention_check_interval = ReplicaSettings().retention_check_interval;  // 0
             if (interval.count() > 0) r.retention_check_interval = interval;
           }},
    Option{"server-side-encryption", true, set_text<&StoreSettings::server_side_encryption>},
    Option{"skip-verify", true,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             r.store.skip_verify = bool_value(name, value);
           }},
    Option{"snapshot-interval", false,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             const nanoseconds interval = duration_value(name, value);
             r.snapshot_interval.reset();  // 0, as in Litestream: none but what is needed
             if (interval.count() > 0) r.snapshot_interval = interval;
           }},
    Option{"storage-class", true, set_text<&StoreSettings::storage_class>},
    Option{"sync-interval", false,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             r.sync_interval = duration_value(name, value);
           }},
    Option{"validation-interval", false,
           [](ReplicaSettings& r, std::string_view name, const std::string& value) {
             const nanoseconds interval = duration_value(name, value);
             r.validation_interval.reset();  // 0, as in Litestream: never
             if (interval.count() > 0) r.validation_interval = interval;
           }},
};

bool is_ipv4(std::string_view host) {
  return !host.empty() && host.find_first_not_of("0123456789.") == std::string_view::npos;
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return result;
}

}  // namespace

bool set_replica_option(ReplicaSettings& replica, std::string_view name, const std::string& value) {
  const auto option = std::find_if(kOptions.begin(), kOptions.end(),
                                   [&](const Option& o) { return o.name == name; });
  if (option == kOptions.end()) return false;
  if (option->s3_only && replica.store.type != StoreSettings::Type::s3) {
    throw Error(std::string(name) + " has no meaning for a file replica: take it out");
  }
  if (value.empty()) throw Error(std::string(name) + " is empty: give it a value or take it out");
  option->set(replica, name, value);
  return true;
}

std::vector<std::string_view> replica_option_names() {
  std::vector<std::string_view> names;
  names.reserve(kOptions.size());
  for (const Option& option : kOptions) names.push_back(option.name);
  return names;
}

Origins complete_store(StoreSettings& store, const Environment& env) {
  Origins origins;
  if (store.type != StoreSettings::Type::s3) return origins;
  for (const char* name : {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}) {
    if (!store.endpoint.empty()) break;
    const auto value = env(name);
    if (!value || value->empty()) continue;
    try {
      store.endpoint = normalise_endpoint(*value);
    } catch (const Error& error) {
      throw Error(std::string("environment variable ") + name + ": " + error.what());
    }
    origins["endpoint"] = std::string("environment variable ") + name;
  }
  if (const auto service = recognise_service(endpoint_host(store.endpoint))) {
    if (store.region.empty() && !service->region.empty()) {
      store.region = service->region;
      origins["region"] = "endpoint";
    }
    if (!store.force_path_style && service->force_path_style) {
      store.force_path_style = service->force_path_style;
      origins["force-path-style"] = "endpoint";
    }
  }
  for (const char* name : {"AWS_REGION", "AWS_DEFAULT_REGION"}) {
    if (!store.region.empty()) break;
    store.region = env(name).value_or("");
    if (!store.region.empty()) origins["region"] = std::string("environment variable ") + name;
  }
  return origins;
}

void set_bucket(StoreSettings& store, std::string_view host, std::string_view port) {
  const std::string name = lower(host);
  const std::string colon_port = port.empty() ? "" : ':' + std::string(port);
  if (name == "localhost" || is_ipv4(name)) {
    throw Error("it names a server but no bucket: write s3://BUCKET/path?endpoint=http://" + name +
                colon_port);
  }

  if (const auto service = recognise_service(name)) {
    if (service->bucket.empty()) {
      throw Error("it names a server but no bucket: write s3://BUCKET." + name + "/path");
    }
    store.bucket = std::string(host.substr(0, service->bucket.size()));
    store.region = service->region;
    store.force_path_style = service->force_path_style;
    store.endpoint = "https://" + service->endpoint + colon_port;
    return;
  }

  // Without a port and not a known service, dots belong to the bucket's name.
  if (port.empty() && !name.ends_with(".localhost")) {
    store.bucket = std::string(host);
    return;
  }
  const auto dot = name.ends_with(".localhost")
                       ? name.size() - std::string_view(".localhost").size()
                       : name.find('.');
  if (dot == std::string::npos || dot == 0 || dot + 1 == name.size()) {
    throw Error("it has a port but no host beside the bucket: write s3://" + name + ".HOST" +
                colon_port + "/path or s3://" + name + "/path?endpoint=http://HOST" + colon_port);
  }
  const std::string server = name.substr(dot + 1);
  store.bucket = std::string(host.substr(0, dot));
  store.endpoint = (is_local_host(server) ? "http://" : "https://") + server + colon_port;
  store.force_path_style = true;
  if (is_local_host(server)) store.region = "us-east-1";
}

}  // namespace sqlstream::config
