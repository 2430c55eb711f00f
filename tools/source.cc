#include "tools/source.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>
#include <system_error>

#include "base/log.h"
#include "config/path.h"

namespace sqlstream::tools {
namespace {

bool is_url(const std::string& text) {
  const auto end = text.find("://");
  return end != std::string::npos && end > 0 &&
         std::all_of(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(end),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
}

void log_to(int descriptor, log::Level level, log::Style style, const ParsedFlags& flags) {
  log::set_sink(log::descriptor_sink(flags.on("json") ? 2 : descriptor),
                flags.on("v") ? log::Level::debug : level, style);
}

void log_to_stderr(const ParsedFlags& flags) {
  log_to(2, log::Level::info, log::Style::logfmt, flags);
}

std::vector<ReplicaSettings> named_only(const DatabaseSettings& database, const std::string& name) {
  for (const ReplicaSettings& replica : database.replicas) {
    if (replica.name == name) return {replica};
  }
  std::string known;
  for (const ReplicaSettings& replica : database.replicas) {
    known += (known.empty() ? "" : ", ") + replica.name;
  }
  throw Error("replica \"" + name + "\" not found for database \"" + database.path +
              "\", which has " + (known.empty() ? "none" : known));
}

}  // namespace

void log_to_stdout() {
  log::set_sink(log::descriptor_sink(1));
}

std::string usual_places() {
  std::string places;
  for (const char* name : config::kUsualFiles) {
    places += (places.empty() ? "" : ", ") + std::string(name);
  }
  return places;
}

config::Config load_config(const ParsedFlags& flags) {
  config::Config config = load_config_if_any(flags);
  if (config.file.empty()) {
    throw Error("config file not found: " + usual_places() +
                "; name one with -config or SQLSTREAM_CONFIG");
  }
  return config;
}

config::Config load_config_if_any(const ParsedFlags& flags) {
  const auto environment = config::process_environment();
  log_to_stderr(flags);
  config::Reading reading;
  reading.expand_env = !flags.on("no-expand-env");
  reading.on_logging = [&](const config::Logging& logging) {
    log_to(2, logging.level, logging.style, flags);
  };
  const auto file = flags.text("config");
  config::Config config =
      file ? config::read_config(config::expand_home(*file, environment), environment, reading)
           : config::find_config(environment, reading);
  if (config.file.empty()) return config;
  // Only now: what is to be said about the file itself does not belong into a table.
  const config::Logging& logging = config.logging;
  log_to(logging.to_stderr ? 2 : 1, logging.level, logging.style, flags);
  return config;
}

Source resolve_source(const ParsedFlags& flags) {
  const auto environment = config::process_environment();
  const std::string& argument = single_argument(flags);
  if (is_url(argument)) {
    if (flags.text("config")) {
      throw Error("cannot specify a replica URL and the -config flag");
    }
    if (flags.text("replica")) {
      throw Error(
          "cannot specify a replica URL and the -replica flag, which chooses one of a database");
    }
    log_to_stderr(flags);
    return {{config::parse_replica_url(argument, environment)}, {}};
  }

  const std::string path = canonical_database(argument);
  const bool has_default = !environment("SQLSTREAM_REPLICA_URL").value_or("").empty();
  const config::Config config = has_default ? load_config_if_any(flags) : load_config(flags);
  std::optional<DatabaseSettings> database;
  for (const DatabaseSettings& each : config.databases) {
    if (each.path == path) database = each;
  }
  // As for a database that is opened.
  if (has_default && (!database || database->replicas.empty())) {
    const ConfigSource source(flags);
    database = config::settings_for(path, {}, source.environment, source.reading);
  }
  if (!database) throw Error("database not found in config: " + path);
  Source source{database->replicas, path};
  if (const auto name = flags.text("replica")) source.replicas = named_only(*database, *name);
  if (source.replicas.empty()) throw Error("the database " + path + " has no replica");
  return source;
}

std::string canonical_database(const std::string& path) {
  if (path.find("://") != std::string::npos) {
    throw Error("a replica URL stands where the database's path is expected: name the file");
  }
  std::string canonical =
      config::canonical_path(config::expand_home(path, config::process_environment()));
  if (std::error_code ignored; std::filesystem::is_directory(canonical, ignored)) {
    throw Error("the database path " + canonical + " is a folder: name the file in it");
  }
  return canonical;
}

ConfigSource::ConfigSource(const ParsedFlags& flags) : environment(config::process_environment()) {
  reading.expand_env = !flags.on("no-expand-env");
  const auto file = flags.text("config");
  if (!file) return;
  environment = [named = config::expand_home(*file, environment),
                 process = environment](const std::string& name) {
    return name == "SQLSTREAM_CONFIG" ? std::optional(named) : process(name);
  };
}

DatabaseSettings replicated_database(const ParsedFlags& flags, const std::string& path) {
  // What is to be said about the file comes when the VFS reads it again.
  log::set_sink({});
  const ConfigSource source(flags);
  const std::string canonical = canonical_database(path);
  auto settings = config::settings_for(canonical, {}, source.environment, source.reading);
  log_to(2, log::Level::warn, log::Style::logfmt, flags);
  if (!settings) {
    throw Error("no replica is configured for " + canonical +
                ": name it in the configuration file (-config) or set SQLSTREAM_REPLICA_URL");
  }
  return std::move(*settings);
}

std::optional<Generation> generation_flag(const ParsedFlags& flags) {
  const auto text = flags.text("generation");
  if (!text) return std::nullopt;
  if (const auto generation = Generation::parse(*text)) return generation;
  throw Error("-generation must be 16 lower-case hexadecimal digits, not \"" + *text + '"');
}

}  // namespace sqlstream::tools
