// Litestream's configuration file. Each value is expanded when it is read, not the file as a text,
// so that a secret may hold any character and an unset variable can be named with its line.

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <span>
#include <sstream>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include "base/error.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "config/config.h"
#include "config/expand.h"
#include "config/path.h"
#include "config/replica_options.h"
#include "config/units.h"

namespace sqlstream::config {
namespace {

// Of pages: as Litestream's 0.
constexpr std::uint32_t kNoLimit = std::numeric_limits<std::uint32_t>::max();

// What Litestream knows and has no meaning here: accepted, and named once.
constexpr std::string_view kIgnoredDatabase[] = {"busy-timeout", "checkpoint-interval", "meta-path",
                                                 "monitor-interval", "shadow-retention"};
constexpr std::string_view kIgnoredReplica[] = {"meta-path"};

// Options of a replica that a database may have for all of its own.
constexpr std::string_view kDefaults[] = {
    "adaptive",          "exclusive",     "retention",          "retention-check-interval",
    "snapshot-interval", "sync-interval", "validation-interval"};

// Of Litestream's other replica types; the type itself is refused.
constexpr std::string_view kOtherTypes[] = {"abs", "gcs", "gs", "nats", "sftp", "webdav", "oss"};

/// Where a YAML document begins, if anything is in it.
struct FirstLine : YAML::EventHandler {
  int line = 0;
  int begins = 0;

  void OnDocumentStart(const YAML::Mark& mark) override { begins = mark.line + 1; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}  // never the first
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {
    line = begins;
  }
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    line = begins;
  }
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    line = begins;
  }
  void OnMapEnd() override {}
};

std::string read_whole(const std::string& file) {
  const auto refuse = [&](int code) {
    if (code == ENOENT) return Error("config file not found: " + file);
    return Error("cannot read the configuration file " + file + ": " +
                 std::generic_category().message(code));
  };
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) throw refuse(errno);
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw refuse(errno);
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
  }
}

// How many characters must be inserted, deleted or replaced to make one from the other.
// So far from a key a mistyped one is, at most.
constexpr std::size_t kAlike = 3;

bool is_one_variable(std::string_view text) {
  const auto begin = text.starts_with("${") ? 2 : 1;
  const auto end = text.size() - (text.ends_with('}') ? 1 : 0);
  return text.starts_with('$') && std::all_of(text.begin() + begin, text.begin() + end, [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
         });
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, replaced});
    }
  }
  return row.back();
}

// An Error that already says where.
class LocatedError : public Error {
 public:
  using Error::Error;
};

class Reader {
 public:
  Reader(std::string file, const Environment& env, const Reading& reading)
      : file_(std::move(file)), env_(env), reading_(reading) {}

  Config read() {
    Config config;
    config.file = file_;
    const YAML::Node root = parse(read_whole(file_));
    take_merged(root);
    // First of all: it says where warnings about the rest go.
    Origins& origins = config.origins[{"", ""}];
    if (root.IsMap() && root["logging"].IsDefined()) {
      config.logging = read_logging(root["logging"], origins);
    }
    if (reading_.on_logging) reading_.on_logging(config.logging);
    if (root.IsNull()) return config;
    read_keys(
        root, "the configuration",
        {{"access-key-id", [&](const auto& v) { access_key_id_ = text(v); }},
         {"secret-access-key", [&](const auto& v) { secret_access_key_ = secret_of(v); }},
         {"addr", [&](const auto& v) { warn(v, "addr has no effect: there are no metrics yet"); }},
         {"exec", [&](const auto& v) { config.exec = text(v); }},
         {"logging", [](const auto&) {}},
         {"age", [&](const auto& v) { refuse_age(v); }},
         {"dbs", [&](const auto& v) { databases_ = v; }}},
        origins);
    for (const char* key : {"access-key-id", "secret-access-key"}) {
      if (origins.count(key) > 0) key_origins_[key] = origins[key];
    }
    // After the rest: the global keys may stand behind the list.
    if (databases_.IsDefined() && !databases_.IsNull()) {
      if (!databases_.IsSequence()) fail(databases_, "dbs must be a list");
      for (const auto& entry : databases_) read_database(entry, config);
    }
    name_ignored();
    return config;
  }

 private:
  // A replica, and where its settings come from.
  struct Placed {
    ReplicaSettings settings;
    Origins origins;
  };
  using Handler = std::function<void(const YAML::Node& value)>;
  using Handlers = std::map<std::string_view, Handler>;

  YAML::Node parse(const std::string& content) const {
    try {
      warn_of_more(content);
      return YAML::Load(content);
    } catch (const YAML::Exception& error) {
      throw Error(file_ + " line " + std::to_string(error.mark.line + 1) + " column " +
                  std::to_string(error.mark.column + 1) + ": broken YAML: " + error.msg);
    }
  }

  // YAML::LoadAll() would read them, and takes all memory for some broken files.
  void warn_of_more(const std::string& content) const {
    std::istringstream text(content);
    YAML::Parser parser(text);
    FirstLine first;
    if (!parser.HandleNextDocument(first)) return;
    FirstLine second;
    if (!parser.HandleNextDocument(second) || second.line == 0) return;
    log::warn("only the first document of the file is read, and not what is behind this line ---",
              {{"file", file_}, {"line", std::to_string(second.line)}});
  }

  static std::string line_of(const YAML::Node& node) {
    return std::to_string(node.Mark().line + 1);
  }

  [[noreturn]] void fail(const YAML::Node& at, const std::string& sentence) const {
    throw LocatedError(file_ + " line " + line_of(at) + ": " + sentence);
  }

  void warn(const YAML::Node& at, const std::string& sentence) const {
    log::warn(sentence, {{"file", file_}, {"line", line_of(at)}});
  }

  // Runs `action`, putting file and line in front of what it throws.
  template <class Action>
  auto located(const YAML::Node& at, Action&& action) const {
    try {
      return action();
    } catch (const LocatedError&) {
      throw;
    } catch (const Error& error) {
      fail(at, error.what());
    }
  }

  // "file:line", and the variables that are put in there.
  std::string origin_of(const YAML::Node& value) const {
    std::string origin = file_ + ':' + line_of(value);
    if (!value.IsScalar() || !reading_.expand_env) return origin;
    const auto expanded = located(value, [&] { return expand_variables(value.Scalar(), env_); });
    for (const auto& name : expanded.used) origin += " $" + name;
    return origin;
  }

  // Puts what "<<: *anchor" stands for into `map`, whose own keys come first.
  void take_merged(YAML::Node map) const {
    if (!map.IsMap()) return;
    std::vector<YAML::Node> sources;
    while (const YAML::Node merged = std::as_const(map)["<<"]) {
      if (merged.IsSequence()) {
        for (const YAML::Node& source : merged) sources.push_back(source);
      } else {
        sources.push_back(merged);
      }
      map.remove("<<");  // first, as it may contain itself
    }
    for (const YAML::Node& source : sources) {
      if (!source.IsMap()) fail(source, "behind << an alias of \"key: value\" lines is expected");
      take_merged(source);
      for (const auto& entry : source) {
        const bool own = entry.first.IsScalar() && std::as_const(map)[entry.first.Scalar()];
        if (!own) map.force_insert(entry.first, entry.second);
      }
    }
  }

  // Calls the handler of each key of `map`, and notes where it stands. `what` names the map for
  // messages.
  void read_keys(const YAML::Node& map, const std::string& what, const Handlers& handlers,
                 Origins& origins, std::span<const std::string_view> ignored = {}) {
    if (!map.IsMap()) fail(map, what + " must consist of \"key: value\" lines");
    take_merged(map);
    std::set<std::string> seen;
    for (const auto& entry : map) {
      if (!entry.first.IsScalar()) fail(entry.first, "a key of " + what + " must be a word");
      const std::string& key = entry.first.Scalar();
      if (!seen.insert(key).second) fail(entry.first, key + " is given twice in " + what);
      if (const auto handler = handlers.find(key); handler != handlers.end()) {
        handler->second(entry.second);
        if (!entry.second.IsNull()) origins[key] = origin_of(entry.second);
      } else if (std::find(ignored.begin(), ignored.end(), key) != ignored.end()) {
        ignored_.insert(key);
      } else {
        warn_unknown(entry.first, what, handlers);
      }
    }
  }

  void warn_unknown(const YAML::Node& key, const std::string& what,
                    const Handlers& handlers) const {
    log::Fields fields = {
        {"key", key.Scalar()}, {"in", what}, {"file", file_}, {"line", line_of(key)}};
    const auto distance = [&](const auto& handler) {
      return edit_distance(key.Scalar(), handler.first);
    };
    const auto nearest =
        std::min_element(handlers.begin(), handlers.end(),
                         [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
    if (nearest != handlers.end() && distance(*nearest) <= kAlike) {
      fields.emplace_back("nearest", std::string(nearest->first));
    }
    log::warn("unknown key in the configuration is ignored", fields);
  }

  void name_ignored() const {
    if (ignored_.empty()) return;
    std::string keys;
    for (const auto& key : ignored_) keys += (keys.empty() ? "" : ", ") + key;
    log::debug("keys without a meaning here are ignored", {{"keys", keys}, {"file", file_}});
  }

  // A value as text, with variables put in. `required` values may not lack a variable.
  std::string text(const YAML::Node& value, bool required = false) const {
    if (value.IsNull()) return {};
    if (!value.IsScalar()) fail(value, "a single value is expected here");
    if (!reading_.expand_env) return value.Scalar();
    Expanded expanded;
    try {
      expanded = expand_variables(value.Scalar(), env_);
    } catch (const Error& error) {
      fail(value, error.what());
    }
    for (const auto& name : expanded.unset) {
      if (required) {
        fail(value, "the environment variable " + name + " is not set: set it, or write its value");
      }
      log::warn("environment variable is not set, nothing is put in",
                {{"variable", name}, {"file", file_}, {"line", line_of(value)}});
    }
    return expanded.text;
  }

  // What looks like a variable in the middle of a secret may be a part of it, which must not be
  // named.
  std::string secret_of(const YAML::Node& value) const {
    if (!reading_.expand_env || !value.IsScalar()) return text(value);
    const std::string& written = value.Scalar();
    const auto expanded = located(value, [&] { return expand_variables(written, env_); });
    if (expanded.unset.empty() || is_one_variable(written)) return text(value);
    fail(value,
         "a $ in this secret is taken for the beginning of a variable, which is not set: put the "
         "secret into an environment variable, and name that here as $NAME");
  }

  bool switch_of(const YAML::Node& value, std::string_view key) const {
    if (const auto parsed = parse_bool(text(value))) return *parsed;
    fail(value, std::string(key) + " must be true or false");
  }

  std::uint32_t pages_of(const YAML::Node& value, std::uint32_t least) const {
    const std::string digits = text(value);
    std::uint32_t pages = 0;
    const char* end = digits.data() + digits.size();
    const auto parsed = std::from_chars(digits.data(), end, pages);
    if (parsed.ec == std::errc() && parsed.ptr == end && pages >= least) return pages;
    fail(value, "a number of pages is expected here, not \"" + digits + '"');
  }

  Logging read_logging(const YAML::Node& node, Origins& origins) {
    Logging logging;
    if (node.IsNull()) return logging;
    read_keys(node, "logging",
              {{"level",
                [&](const auto& v) {
                  static const std::map<std::string, log::Level> kLevels = {
                      {"debug", log::Level::debug}, {"info", log::Level::info},
                      {"warn", log::Level::warn},   {"warning", log::Level::warn},
                      {"error", log::Level::error}, {"trace", log::Level::debug}};
                  std::string name = text(v);
                  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
                    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
                  });
                  const auto level = kLevels.find(name);
                  if (level == kLevels.end()) {
                    fail(v, "level must be debug, info, warn or error, not \"" + name + '"');
                  }
                  logging.level = level->second;
                }},
               {"type",
                [&](const auto& v) {
                  const std::string name = text(v);
                  if (name != "text" && name != "json") {
                    fail(v, "type must be text or json, not \"" + name + '"');
                  }
                  logging.style = name == "json" ? log::Style::json : log::Style::logfmt;
                }},
               {"stderr", [&](const auto& v) { logging.to_stderr = switch_of(v, "stderr"); }}},
              origins);
    return logging;
  }

  void read_database(const YAML::Node& node, Config& config) {
    DatabaseSettings database;
    Origins origins;
    YAML::Node path, replicas, replica, outbox;
    std::optional<bool> restore_wanted;
    Placed defaults;
    Handlers handlers = {
        {"path", [&](const auto& v) { path = v; }},
        {"replicas", [&](const auto& v) { replicas = v; }},
        {"replica", [&](const auto& v) { replica = v; }},
        {"age", [&](const auto& v) { refuse_age(v); }},
        {"outbox-dir",
         [&](const auto& v) {
           outbox = v;
           database.outbox_dir =
               located(v, [&] { return canonical_path(expand_home(text(v, true), env_)); });
         }},
        {"outbox-max-size",
         [&](const auto& v) {
           const auto size = parse_size(text(v));
           if (!size) {
             fail(v,
                  "outbox-max-size must be a size such as 500MB or 2GiB, not \"" + text(v) + '"');
           }
           database.outbox_max_size = *size;
         }},
        {"shutdown-timeout",
         [&](const auto& v) {
           const auto limit = parse_duration(text(v));
           if (!limit || limit->count() < 0) {
             fail(v, "shutdown-timeout must be a duration such as 500ms or 5s, not \"" + text(v) +
                         '"');
           }
           database.shutdown_timeout = *limit;
         }},
        {"sync", [&](const auto& v) { read_sync(database, "sync", v); }},
        {"sync-policy", [&](const auto& v) { read_sync(database, "sync-policy", v); }},
        {"sync-replicas", [&](const auto& v) { read_sync(database, "sync-replicas", v); }},
        {"min-checkpoint-page-count",
         [&](const auto& v) { database.min_checkpoint_pages = pages_of(v, 1); }},
        {"max-checkpoint-page-count",
         [&](const auto& v) {
           database.max_checkpoint_pages = pages_of(v, 0);
           if (database.max_checkpoint_pages == 0) database.max_checkpoint_pages = kNoLimit;
         }},
        {"restore-if-missing",
         [&](const auto& v) { restore_wanted = switch_of(v, "restore-if-missing"); }},
        {"restore-from",
         [&](const auto& v) { database.restore_from = read_replica(v, {}).settings; }}};
    for (const auto name : kDefaults) {
      handlers[name] = [&, name](const auto& v) {
        set_option(defaults.settings, name, v);
        defaults.origins[std::string(name)] = origin_of(v);
      };
    }
    read_keys(node, "a database", handlers, origins, kIgnoredDatabase);
    database.restore_if_missing = restore_wanted.value_or(database.restore_from.has_value());

    if (path.IsNull()) fail(node, "a database has no path: add \"path: /folder/file.db\"");
    database.path =
        located(path, [&] { return database_path(expand_home(text(path, true), env_)); });
    if (std::error_code ignored; std::filesystem::is_directory(database.path, ignored)) {
      fail(path, "the database path " + database.path + " is a folder: name the file in it");
    }
    if (!paths_.insert(database.path).second) {
      fail(path, "the database " + database.path + " is given twice");
    }
    if (!outbox.IsNull()) claim_outbox(outbox, database);

    if (!replicas.IsNull() && !replica.IsNull()) {
      fail(replica, "a database has both replica and replicas: keep one of them");
    }
    config.origins[{database.path, ""}] = std::move(origins);
    const auto add = [&](Placed placed) {
      config.origins[{database.path, placed.settings.name}] = std::move(placed.origins);
      database.replicas.push_back(std::move(placed.settings));
    };
    if (!replica.IsNull()) add(read_replica(replica, defaults));
    if (!replicas.IsNull()) {
      if (!replicas.IsSequence()) fail(replicas, "replicas must be a list");
      for (const auto& entry : replicas) {
        Placed placed = read_replica(entry, defaults);
        const std::string& name = placed.settings.name;
        if (std::any_of(database.replicas.begin(), database.replicas.end(),
                        [&](const auto& other) { return other.name == name; })) {
          fail(entry, "the database has two replicas named " + name + ": give each its own name");
        }
        add(std::move(placed));
      }
    }
    if (database.replicas.empty()) {
      warn(node, "database without a replica is not replicated");
      if (database.restore_if_missing && !database.restore_from) {
        fail(node, "restore-if-missing needs a replica or restore-from: add one of them");
      }
    }
    for (const auto& settings : database.replicas) claim(node, settings, database.path);
    config.databases.push_back(std::move(database));
  }

  void read_sync(DatabaseSettings& database, std::string_view key, const YAML::Node& value) const {
    located(value, [&] { set_sync_option(database, key, text(value)); });
  }

  // Only one of two databases with one outbox could be captured.
  void claim_outbox(const YAML::Node& at, const DatabaseSettings& database) {
    const std::filesystem::path folder(database.outbox_dir);
    if (folder == std::filesystem::path(database.path).parent_path()) {
      fail(at, "the outbox-dir of " + database.path +
                   " is the database's own folder: name one that holds nothing else");
    }
    const auto [other, fresh] = outboxes_.emplace(folder, database.path);
    if (!fresh) {
      fail(at, "the outbox-dir of " + database.path + " is already that of " + other->second +
                   ": give each its own folder");
    }
  }

  // Two databases in one place would destroy each other's history.
  void claim(const YAML::Node& at, const ReplicaSettings& replica, const std::string& database) {
    const StoreSettings& store = replica.store;
    const std::string place = store.type == StoreSettings::Type::s3
                                  ? "s3://" + store.bucket + '/' + store.path
                                  : store.path;
    std::string server = store.endpoint;
    const auto local = server.find("://localhost");
    if (local != std::string::npos) server.replace(local + 3, 9, "127.0.0.1");
    const std::string key = server + ' ' + place;
    const auto [other, fresh] = places_.emplace(key, database);
    if (!fresh) {
      fail(at, "the replica " + place + " of " + database + " is already one of " + other->second +
                   ": give each its own path");
    }
  }

  // `defaults`: of its database.
  Placed read_replica(const YAML::Node& node, const Placed& defaults) {
    Origins origins = key_origins_;
    YAML::Node type, url, path, bucket;
    std::vector<std::pair<std::string, YAML::Node>> options;
    std::string key_id = access_key_id_, secret = secret_access_key_, token;
    Handlers handlers = {{"type", [&](const auto& v) { type = v; }},
                         {"url", [&](const auto& v) { url = v; }},
                         {"path", [&](const auto& v) { path = v; }},
                         {"bucket", [&](const auto& v) { bucket = v; }},
                         {"access-key-id", [&](const auto& v) { key_id = text(v); }},
                         {"secret-access-key", [&](const auto& v) { secret = secret_of(v); }},
                         {"session-token", [&](const auto& v) { token = secret_of(v); }},
                         {"age", [&](const auto& v) { refuse_age(v); }}};
    for (const auto name : replica_option_names()) {
      handlers[name] = [&options, name](const auto& v) { options.emplace_back(name, v); };
    }
    if (node.IsScalar()) {
      // As in "replica: s3://bucket/path".
      return located(node, [&] {
        ReplicaSettings replica = from_url(node, defaults.settings);
        origins["url"] = origin_of(node);
        add_defaults(defaults, text(node), origins);
        origins.merge(complete_store(replica.store, env_));
        return Placed{with_keys(std::move(replica), key_id, secret, token), origins};
      });
    }
    refuse_other_type(node);
    read_keys(node, "a replica", handlers, origins, kIgnoredReplica);

    ReplicaSettings replica =
        located(node, [&] { return place_of(node, type, url, path, bucket, defaults.settings); });
    for (const auto& [name, value] : options) set_option(replica, name, value);
    add_defaults(defaults, url.IsNull() ? "" : text(url), origins);
    located(node, [&] { origins.merge(complete_store(replica.store, env_)); });
    return {with_keys(std::move(replica), key_id, secret, token), std::move(origins)};
  }

  void set_option(ReplicaSettings& replica, std::string_view name, const YAML::Node& value) const {
    located(value, [&] {
      const std::string content = text(value);
      // An option whose variable is not set is left out, as the warning said.
      if (!content.empty()) set_replica_option(replica, name, content);
    });
  }

  // What the replica says itself, in a key or in its URL's query, is not from its database.
  static void add_defaults(const Placed& defaults, const std::string& url, Origins& origins) {
    const std::string query = url.substr(std::min(url.find('?'), url.size()));
    for (const auto& [name, origin] : defaults.origins) {
      const bool own = query.find('?' + name + '=') != std::string::npos ||
                       query.find('&' + name + '=') != std::string::npos;
      if (!own) origins.emplace(name, origin);
    }
  }

  static ReplicaSettings with_keys(ReplicaSettings replica, const std::string& key_id,
                                   const std::string& secret, const std::string& token) {
    if (replica.store.type == StoreSettings::Type::s3) {
      replica.store.access_key_id = key_id;
      replica.store.secret_access_key = secret;
      replica.store.session_token = token;
    }
    return replica;
  }

  [[noreturn]] void refuse_age(const YAML::Node& at) const {
    fail(at,
         "age encryption is not supported, and nothing is shipped unencrypted that was asked to be "
         "encrypted: remove the replica or its age section");
  }

  // Before its keys are read: those of another type would only be unknown ones.
  void refuse_other_type(const YAML::Node& node) const {
    if (!node.IsMap()) return;
    take_merged(node);
    const YAML::Node type = node["type"];
    if (!type.IsDefined() || !type.IsScalar()) return;
    const std::string name = text(type);
    if (std::find(std::begin(kOtherTypes), std::end(kOtherTypes), name) != std::end(kOtherTypes)) {
      fail(type, "replicas of type " + name + " are not supported: use s3 or file");
    }
    if (name != "s3" && name != "file") {
      fail(type, "the replica type \"" + name + "\" is not known: use s3 or file");
    }
  }

  ReplicaSettings from_url(const YAML::Node& url, const ReplicaSettings& defaults) const {
    return parse_url_alone(expand_home(text(url, true), env_), defaults);
  }

  ReplicaSettings place_of(const YAML::Node& node, const YAML::Node& type, const YAML::Node& url,
                           const YAML::Node& path, const YAML::Node& bucket,
                           const ReplicaSettings& defaults) const {
    if (!url.IsNull()) {
      if (!path.IsNull()) fail(path, "a replica has both url and path: keep one of them");
      if (!bucket.IsNull()) fail(bucket, "a replica has both url and bucket: keep one of them");
      ReplicaSettings replica = from_url(url, defaults);
      if (!type.IsNull() && text(type) != replica.name) {
        fail(type, "the replica's type is " + text(type) + " but its url is of type " +
                       replica.name + ": take the type out");
      }
      return replica;
    }

    if (!path.IsNull() && text(path, true).find("://") != std::string::npos) {
      fail(path, "a replica's path cannot be a URL: write it as url");
    }
    const bool s3 = type.IsNull() ? !bucket.IsNull() : text(type) == "s3";
    if (!s3) {
      if (!bucket.IsNull()) fail(bucket, "bucket has no meaning for a file replica: take it out");
      if (path.IsNull()) fail(node, "a replica has neither url nor path: add one of them");
      const std::string folder = canonical_path(expand_home(text(path, true), env_));
      return parse_url_alone(folder, defaults);
    }

    if (bucket.IsNull()) fail(node, "an s3 replica has neither url nor bucket: add one of them");
    ReplicaSettings replica = defaults;
    const std::string name = text(bucket, true);
    if (name.find("://") != std::string::npos) {
      replica = parse_url_alone(name, defaults);
      if (replica.store.type != StoreSettings::Type::s3) {
        fail(bucket, "the bucket of an s3 replica must be a name or an s3:// URL");
      }
    } else {
      if (name.empty() || name.find('/') != std::string::npos) {
        fail(bucket, "the bucket \"" + name + "\" is not a bucket's name");
      }
      replica.name = "s3";
      replica.store.type = StoreSettings::Type::s3;
      replica.store.bucket = name;
    }
    if (!path.IsNull()) replica.store.path = key_prefix(path);
    return replica;
  }

  std::string key_prefix(const YAML::Node& path) const {
    std::string prefix =
        std::filesystem::path('/' + text(path, true)).lexically_normal().string().substr(1);
    while (prefix.ends_with('/')) prefix.pop_back();
    return prefix;
  }

  const std::string file_;
  const Environment& env_;
  const Reading& reading_;
  YAML::Node databases_;
  std::string access_key_id_, secret_access_key_;
  Origins key_origins_;  // of these two
  std::set<std::string> ignored_;
  std::set<std::string> paths_;
  std::map<std::string, std::string> places_;
  std::map<std::string, std::string> outboxes_;  // the databases', by folder
};

}  // namespace

Config read_config(const std::string& file, const Environment& env, const Reading& reading) {
  try {
    return Reader(file, env, reading).read();
  } catch (const YAML::Exception& error) {
    // What the checks before reading a node should have caught.
    throw Error(file + " line " + std::to_string(error.mark.line + 1) + ": " + error.msg);
  }
}

Config find_config(const Environment& env, const Reading& reading) {
  for (const char* name : {"SQLSTREAM_CONFIG", "LITESTREAM_CONFIG"}) {
    const auto file = env(name);
    if (!file || file->empty()) continue;
    try {
      return read_config(*file, env, reading);
    } catch (const Error& error) {
      throw NamedConfigError(error.what());
    }
  }
  for (const char* file : kUsualFiles) {
    std::error_code ignored;
    if (std::filesystem::exists(file, ignored)) return read_config(file, env, reading);
  }
  return {};
}

}  // namespace sqlstream::config
