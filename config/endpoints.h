#pragma once

#include <optional>
#include <string>
#include <string_view>

/// What the host name of an S3 service tells. Pure; knows the services by name only.
namespace sqlstream::config {

/// A host name of a known service, taken apart.
struct ServiceHost {
  std::string bucket;    ///< what stands before the service's own name; may be empty
  std::string endpoint;  ///< the service's own name
  std::string region;    ///< empty: the name does not tell
  std::optional<bool> force_path_style;  ///< how the service wants buckets addressed; empty: either
};

/// Recognises "[bucket.]service" for AWS, Backblaze B2, Cloudflare R2, DigitalOcean Spaces,
/// Filebase, Hetzner, Linode, Scaleway, Tigris and Wasabi. `host` is lower case, without a port.
std::optional<ServiceHost> recognise_service(std::string_view host);

/// True for localhost, names below it, and loopback addresses.
bool is_local_host(std::string_view host);

/// "scheme://host[:port]" of an endpoint given with or without a scheme: none means http for the
/// local host, https otherwise. Throws Error for anything that is not such an address.
std::string normalise_endpoint(std::string_view endpoint);

/// True for a decimal port number from 1 to 65535.
bool is_port(std::string_view text);

/// The host of a normalised endpoint, without brackets or port, in lower case.
std::string endpoint_host(std::string_view endpoint);

}  // namespace sqlstream::config
