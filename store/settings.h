#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sqlstream {

/// Where a replica is. Plain values, already resolved: the store reads no environment for these,
/// only for the credentials that are left empty here.
struct StoreSettings {
  enum class Type { file, s3 };
  Type type = Type::file;
  std::string path;  ///< file: absolute folder. s3: key prefix without leading or trailing '/'

  std::string bucket;
  std::string endpoint;                  ///< "http://host:port" or "https://host"; empty: AWS
  std::string region;                    ///< empty: asked from the service, else us-east-1
  std::optional<bool> force_path_style;  ///< empty: path style when an endpoint is given
  bool skip_verify = false;              ///< accept any TLS certificate
  std::string ca_file;                   ///< PEM; empty: AWS_CA_BUNDLE, SSL_CERT_FILE, the system's
  std::string access_key_id;             ///< empty: the credential chain
  std::string secret_access_key;
  std::string session_token;
  std::string profile;                 ///< ~/.aws profile; empty: AWS_PROFILE or "default"
  std::string storage_class;           ///< x-amz-storage-class; empty: the bucket's
  std::string server_side_encryption;  ///< AES256 or aws:kms; empty: the bucket's
  std::string kms_key_id;
  unsigned requests = 32;  ///< at most on their way at once; the others wait

  /// "s3://bucket/path" or "file:///path": for people; never holds credentials.
  std::string url() const;
  /// The same and the server it is on: two settings with the same place are one replica.
  std::string place() const;

  bool operator==(const StoreSettings&) const = default;
};

}  // namespace sqlstream
