// Replica URLs, patterns of them, endpoints and proxies.

#include "base/error.h"
#include "config/config.h"
#include "config/endpoints.h"
#include "store/s3/http.h"
#include "test/fuzz/input.h"

using namespace sqlstream;

namespace {

std::optional<std::string> variable(const std::string& name) {
  if (name == "AWS_REGION") return "eu-west-1";
  return std::nullopt;
}

template <class Call>
void refused_or(Call call) {
  try {
    call();
  } catch (const Error& error) {
    fuzz::require(error.what()[0] != '\0');
  }
}

}  // namespace

FUZZ(data, size) {
  const std::string_view text = as_text({data, size});
  refused_or([&] {
    const ReplicaSettings replica = config::parse_replica_url(text, variable);
    const bool file = replica.store.type == StoreSettings::Type::file;
    fuzz::require(file ? replica.store.path.starts_with('/') : !replica.store.bucket.empty());
    fuzz::require(!replica.name.empty() && !replica.store.url().empty());
  });
  refused_or([&] {
    (void)config::expand_replica_url(text, "/srv/the data/app.db");
    (void)config::expand_replica_url("s3://bucket/{path}/{name}", text);
  });
  refused_or([&] {
    const config::Environment env = [&](const std::string& name) -> std::optional<std::string> {
      if (name != "AWS_ENDPOINT_URL") return std::nullopt;
      return std::string(text);
    };
    fuzz::require(config::parse_replica_url("s3://bucket", env).store.bucket == "bucket");
  });
  refused_or([&] {
    // An endpoint that is in order stays as it is.
    const std::string endpoint = config::normalise_endpoint(text);
    fuzz::require(config::normalise_endpoint(endpoint) == endpoint);
    const std::string host = config::endpoint_host(endpoint);
    fuzz::require(!host.empty());
    (void)config::recognise_service(host);
    (void)config::is_local_host(host);
  });
  if (const auto url = http::parse_url(text)) {
    fuzz::require(!url->origin.host.empty() && url->origin.port != 0);
    (void)url->origin.str();
  }
  return 0;
}
