#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

/// The options a replica takes, by the same names in a URL's query and in a configuration file.
namespace sqlstream::config {

/// Sets one option; false when there is none of that name. Throws Error with a sentence that names
/// the option (not where it stands) when the value cannot be, or the option has no meaning for the
/// replica's type. Secrets are not options: only a configuration file may hold them.
bool set_replica_option(ReplicaSettings& replica, std::string_view name, const std::string& value);

/// All names, sorted.
std::vector<std::string_view> replica_option_names();

/// parse_replica_url() without the environment: what the URL leaves open is as in `defaults`.
ReplicaSettings parse_url_alone(std::string_view url, const ReplicaSettings& defaults = {});

/// Fills in what an S3 replica leaves open: endpoint and region from the environment, region and
/// addressing from the endpoint where it is a known service's. Returns where it took what from.
/// Throws Error.
Origins complete_store(StoreSettings& store, const Environment& env);

/// Takes a bucket's "host[:port]" apart: "bucket", "bucket.service", "bucket.host:port". An
/// endpoint that it names is put into `store` beside the bucket. Throws Error.
void set_bucket(StoreSettings& store, std::string_view host, std::string_view port);

}  // namespace sqlstream::config
