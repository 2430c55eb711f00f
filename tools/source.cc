#include "tools/source.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

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

std::string no_config() {
  std::string tried;
  for (const char* name : config::kUsualFiles) {
    tried += (tried.empty() ? "" : ", ") + std::string(name);
  }
  return "config file not found: " + tried + "; name one with -config or SQLSTREAM_CONFIG";
}

}  // namespace

void log_to_stdout() {
  log::set_sink(log::descriptor_sink(1));
}

config::Config load_config(const ParsedFlags& flags) {
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
  if (config.file.empty()) throw Error(no_config());
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
    log_to_stderr(flags);
    return {{config::parse_replica_url(argument, environment)}, {}};
  }

  const std::string path = config::canonical_path(config::expand_home(argument, environment));
  for (const DatabaseSettings& database : load_config(flags).databases) {
    if (database.path != path) continue;
    Source source{database.replicas, path};
    if (const auto name = flags.text("replica")) source.replicas = named_only(database, *name);
    if (source.replicas.empty()) throw Error("the database " + path + " has no replica");
    return source;
  }
  throw Error("database not found in config: " + path);
}

DatabaseSettings replicated_database(const ParsedFlags& flags, const std::string& path) {
  const auto environment = config::process_environment();
  // What is to be said about the file comes when the VFS reads it again.
  log::set_sink({});
  if (const auto file = flags.text("config")) {
    // Where the VFS looks for it, too.
    ::setenv("SQLSTREAM_CONFIG", config::expand_home(*file, environment).c_str(), 1);
  }
  const std::string canonical = config::canonical_path(config::expand_home(path, environment));
  auto settings = config::settings_for(canonical, {}, environment);
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
