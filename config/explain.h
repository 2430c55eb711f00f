#pragma once

#include <string>
#include <vector>

#include "config/config.h"

namespace sqlstream::config {

/// A setting that is in force, as people read it.
struct Setting {
  std::string database;  ///< its path; empty: of the whole file
  std::string replica;   ///< its name; empty: of the database
  std::string key;
  std::string value;   ///< secrets are masked
  std::string origin;  ///< "file:line", "environment variable NAME", "endpoint", "default"
};

/// The part of `config` that counts for one database, with the replica that SQLSTREAM_REPLICA_URL
/// gives it where the file gives none. Throws Error.
Config part_for(const Config& config, const std::string& database_path, const Environment& env);

/// Every setting of a configuration, in the order of its file. `env` tells where credentials come
/// from that the file does not hold.
std::vector<Setting> explain(const Config& config, const Environment& env);

}  // namespace sqlstream::config
