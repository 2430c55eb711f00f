#include "config/explain.h"

#include <limits>

#include "config/replica_options.h"
#include "config/units.h"

namespace sqlstream::config {
namespace {

using Values = std::vector<std::pair<std::string, std::string>>;

constexpr const char* kMask = "***";

std::string shown(bool value) {
  return value ? "true" : "false";
}

std::string pages(std::uint32_t count) {
  return count == std::numeric_limits<std::uint32_t>::max() ? "none" : std::to_string(count);
}

std::string or_else(const std::string& value, const char* otherwise) {
  return value.empty() ? otherwise : value;
}

Values values_of(const Logging& logging) {
  const char* const levels[] = {"debug", "info", "warn", "error"};
  return {{"level", levels[static_cast<int>(logging.level)]},
          {"type", logging.style == log::Style::json ? "json" : "text"},
          {"stderr", shown(logging.to_stderr)}};
}

std::string place_of(const StoreSettings& store) {
  if (store.type == StoreSettings::Type::file) return "file://" + store.path;
  return "s3://" + store.bucket + '/' + store.path;
}

Values values_of(const DatabaseSettings& database) {
  return {{"outbox-dir", or_else(database.outbox_dir, "beside the database")},
          {"outbox-max-size", database.outbox_max_size == 0
                                  ? "the larger of 1 GiB and twice the database"
                                  : std::to_string(database.outbox_max_size)},
          {"sync", database.sync.count() == 0 ? "off" : format_duration(database.sync)},
          {"sync-policy", database.sync_terms.fail ? "fail" : "degrade"},
          {"sync-replicas", database.sync_terms.any ? "any" : "all"},
          {"shutdown-timeout", format_duration(database.shutdown_timeout)},
          {"min-checkpoint-page-count", std::to_string(database.min_checkpoint_pages)},
          {"max-checkpoint-page-count", pages(database.max_checkpoint_pages)},
          {"restore-if-missing", shown(database.restore_if_missing)},
          {"restore-from", database.restore_from ? place_of(database.restore_from->store) : ""}};
}

Values values_of(const ReplicaSettings& replica) {
  const StoreSettings& store = replica.store;
  const bool s3 = store.type == StoreSettings::Type::s3;
  Values values = {{"type", s3 ? "s3" : "file"}};
  if (s3) values.emplace_back("bucket", store.bucket);
  values.emplace_back("path", store.path);
  if (s3) {
    values.emplace_back("endpoint", or_else(store.endpoint, "AWS"));
    values.emplace_back("region", or_else(store.region, "asked from the service"));
    values.emplace_back("force-path-style",
                        shown(store.force_path_style.value_or(!store.endpoint.empty())));
    values.emplace_back("skip-verify", shown(store.skip_verify));
    values.emplace_back("ca-file", store.ca_file);
    values.emplace_back("profile", store.profile);
    values.emplace_back("storage-class", store.storage_class);
    values.emplace_back("server-side-encryption", store.server_side_encryption);
    values.emplace_back("kms-key-id", store.kms_key_id);
  }
  values.emplace_back("sync-interval", format_duration(replica.sync_interval));
  values.emplace_back("adaptive", replica.adaptive > 0 ? std::to_string(replica.adaptive) : "none");
  values.emplace_back(
      "retention", replica.retention.count() > 0 ? format_duration(replica.retention) : "forever");
  values.emplace_back("retention-check-interval",
                      format_duration(replica.retention_check_interval));
  values.emplace_back("snapshot-interval", replica.snapshot_interval
                                               ? format_duration(*replica.snapshot_interval)
                                               : "none");
  values.emplace_back("validation-interval", replica.validation_interval
                                                 ? format_duration(*replica.validation_interval)
                                                 : "none");
  values.emplace_back("compaction", shown(replica.compaction));
  values.emplace_back("exclusive", shown(replica.exclusive));
  return values;
}

class Explanation {
 public:
  Explanation(const Config& config, const Environment& env) : config_(config), env_(env) {}

  std::vector<Setting> write() {
    at("", "");
    add_all(values_of(config_.logging), values_of(Logging{}));
    for (const DatabaseSettings& database : config_.databases) {
      at(database.path, "");
      add_all(values_of(database), values_of(DatabaseSettings{}));
      for (const ReplicaSettings& replica : database.replicas) add_replica(database, replica);
    }
    return std::move(settings_);
  }

 private:
  void at(const std::string& database, const std::string& replica) {
    database_ = database;
    replica_ = replica;
    const auto found = config_.origins.find({database, replica});
    origins_ = found == config_.origins.end() ? Origins{} : found->second;
  }

  void add(const std::string& key, const std::string& value, const std::string& origin) {
    settings_.push_back({database_, replica_, key, value, origin});
  }

  std::string origin(const std::string& key, bool is_default) const {
    if (const auto own = origins_.find(key); own != origins_.end()) return own->second;
    for (const char* place : {"url", "bucket"}) {
      const auto found = origins_.find(place);
      if (found != origins_.end() && !is_default) return found->second;
    }
    return "default";
  }

  // `defaults` has the same keys. Texts that are not set are left out.
  void add_all(const Values& values, const Values& defaults) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto& [key, value] = values[i];
      if (!value.empty()) add(key, value, origin(key, value == defaults[i].second));
    }
  }

  void add_replica(const DatabaseSettings& database, const ReplicaSettings& replica) {
    at(database.path, replica.name);
    ReplicaSettings fresh;
    fresh.store.type = replica.store.type;
    // On it depends the default of force-path-style.
    if (!replica.store.endpoint.empty()) fresh.store.endpoint = "another";
    add_all(values_of(replica), values_of(fresh));
    if (replica.store.type != StoreSettings::Type::s3) return;
    add_keys(replica.store);
    if (!replica.store.session_token.empty()) {
      add("session-token", kMask, origin("session-token", false));
    }
  }

  bool is_set(const char* variable) const { return !env_(variable).value_or("").empty(); }

  // Both are of one place, in the order in which they are looked for (store/s3/credentials.h).
  void add_keys(const StoreSettings& store) {
    if (!store.access_key_id.empty() || !store.secret_access_key.empty()) {
      const auto add_own = [&](const char* key, const std::string& value) {
        if (value.empty())
          return add(key, "missing: both are set in the configuration, or none", "");
        add(key, kMask, origin(key, false));
      };
      add_own("access-key-id", store.access_key_id);
      add_own("secret-access-key", store.secret_access_key);
      return;
    }
    constexpr std::pair<const char*, const char*> kPairs[] = {
        {"LITESTREAM_ACCESS_KEY_ID", "LITESTREAM_SECRET_ACCESS_KEY"},
        {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}};
    for (const auto& [id, secret] : kPairs) {
      if (!store.profile.empty() || !is_set(id) || !is_set(secret)) continue;
      add("access-key-id", kMask, std::string("environment variable ") + id);
      add("secret-access-key", kMask, std::string("environment variable ") + secret);
      return;
    }
    for (const char* key : {"access-key-id", "secret-access-key"}) {
      add(key, "looked for as AWS's tools do", "default");
    }
  }

  const Config& config_;
  const Environment& env_;
  std::string database_, replica_;
  Origins origins_;
  std::vector<Setting> settings_;
};

}  // namespace

Config part_for(const Config& config, const std::string& database_path, const Environment& env) {
  Config part = config;
  std::erase_if(part.databases,
                [&](const DatabaseSettings& other) { return other.path != database_path; });
  if (part.databases.empty()) part.databases.emplace_back().path = database_path;
  DatabaseSettings& database = part.databases.front();
  const auto pattern = env("SQLSTREAM_REPLICA_URL").value_or("");
  if (!database.replicas.empty() || pattern.empty()) return part;
  ReplicaSettings replica = parse_url_alone(expand_replica_url(pattern, database_path));
  Origins origins = complete_store(replica.store, env);
  origins["url"] = "environment variable SQLSTREAM_REPLICA_URL";
  part.origins[{database_path, replica.name}] = std::move(origins);
  database.replicas.push_back(std::move(replica));
  return part;
}

std::vector<Setting> explain(const Config& config, const Environment& env) {
  return Explanation(config, env).write();
}

}  // namespace sqlstream::config
