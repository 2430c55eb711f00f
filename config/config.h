#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "shipper/settings.h"

/// Settings from URLs, the environment and litestream.yml. Reads files and the environment; keeps
/// no state. Every function throws Error with one sentence naming what is wrong and where.
namespace sqlstream::config {

/// The environment as a function, so that tests need no setenv.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;
Environment process_environment();

/// A replica URL: "s3://bucket/path", "s3://bucket.host:port/path" (over http on the local host,
/// else https), "file:///path", "/path" (taken literally). The query sets options:
/// endpoint, region, force-path-style, skip-verify, ca-file, profile, storage-class,
/// server-side-encryption, kms-key-id, name, sync-interval, retention, retention-check-interval,
/// snapshot-interval, validation-interval, exclusive; an unknown one is an error that names these.
/// Region and addressing follow from the endpoint of a known service; what is left open comes from
/// AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION. Secrets in a URL are
/// refused.
ReplicaSettings parse_replica_url(std::string_view url, const Environment& env);

/// `pattern` with "{name}" (file name) and "{path}" (absolute path without the leading '/') of the
/// database put in, percent-encoded (as they are, when the pattern is a plain path). A pattern with
/// neither is for one database only: returned as is.
std::string expand_replica_url(std::string_view pattern, std::string_view database_path);

/// How a configuration file wants the command line to log.
struct Logging {
  log::Level level = log::Level::info;
  log::Style style = log::Style::logfmt;
  bool to_stderr = false;  ///< else to stdout, as Litestream does
};

/// Where settings come from: by the key of each, "file:line", "environment variable NAME" or the
/// like. What is left out has its default, or follows from the replica's URL.
using Origins = std::map<std::string, std::string>;

/// What a configuration file says.
struct Config {
  std::string file;                         ///< where it was read from; empty: none
  std::vector<DatabaseSettings> databases;  ///< also those without a replica
  Logging logging;
  std::string exec;  ///< the command that `replicate` runs; empty: none
  /// By the path of a database and the name of a replica; "" for the settings above these.
  std::map<std::pair<std::string, std::string>, Origins> origins;
};

/// How a configuration file is read.
struct Reading {
  bool expand_env = true;  ///< put environment variables in for $VAR and ${VAR}
  /// Told how the file wants to log, before anything else of it is logged; may be empty.
  std::function<void(const Logging& logging)> on_logging = {};
};

/// Reads one file in Litestream's format. Errors name file and line; warnings (unknown keys, unset
/// variables) go to the log.
Config read_config(const std::string& file, const Environment& env, const Reading& reading = {});

/// Where a configuration file is looked for when none is named.
inline constexpr std::array kUsualFiles = {"/etc/sqlstream.yml", "/etc/litestream.yml"};

/// The file that SQLSTREAM_CONFIG or LITESTREAM_CONFIG names cannot be used. What it says is not
/// known, so a database that does not exist must not be created: perhaps it was to be restored.
class NamedConfigError : public Error {
 public:
  using Error::Error;
};

/// The first of SQLSTREAM_CONFIG, LITESTREAM_CONFIG (these must be right when set, else it throws
/// NamedConfigError), then kUsualFiles; none there: an empty Config.
Config find_config(const Environment& env, const Reading& reading = {});

/// Which settings a database has when it is opened through the VFS: those of its entry in
/// find_config(). Its replica is `replica_uri` (the URI parameter, empty: none), else those of that
/// entry, else SQLSTREAM_REPLICA_URL. Empty: not replicated; without replicas: only to be restored
/// when it is missing. `database_path` is canonical.
std::optional<DatabaseSettings> settings_for(const std::string& database_path,
                                             const std::string& replica_uri, const Environment& env,
                                             const Reading& reading = {});

/// Sets `sync`, `sync-replicas` or `sync-policy`; these are URI parameters, too.
void set_sync_option(DatabaseSettings& database, std::string_view name, const std::string& value);

/// `path` absolute, with symbolic links of its folder and (where it exists) itself resolved.
std::string canonical_path(const std::string& path);
/// The same for one of several databases; where its folder may not be looked into, or does not
/// resolve, the absolute path: what cannot be opened must not stand in the others' way.
std::string database_path(const std::string& path);

}  // namespace sqlstream::config
