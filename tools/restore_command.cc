#include "tools/restore_command.h"

#include <cstdio>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "restore/plan.h"
#include "restore/restore.h"
#include "tools/flags.h"
#include "tools/progress.h"
#include "tools/replica_argument.h"
#include "tools/session.h"

namespace sqlstream::tools {
namespace {

po::options_description known_flags() {
  po::options_description known;
  const auto text = [](const char* name) { return po::value<std::string>()->value_name(name); };
  known.add_options()("o", text("PATH"), "the file to restore to; must not exist")(
      "timestamp", text("T"), "up to this moment (RFC 3339, 2026-01-02T15:04:05.678Z)")(
      "generation", text("G"), "from this generation; else the one with the latest data")(
      "index", text("N"), "up to the end of this WAL index (hexadecimal, as in names)")(
      "parallelism", po::value<unsigned>()->value_name("N"), "large downloads at a time (8)")(
      "if-replica-exists", switch_value(), "exit with 0 when there is nothing to restore")(
      "if-db-not-exists", switch_value(), "exit with 0 when the output exists already")(
      "json", switch_value(), "print the result as JSON")("v", switch_value(), "say more")(
      "help", switch_value(), "show this");
  return known;
}

std::uint32_t parse_index(const std::string& text) {
  std::size_t used = 0;
  unsigned long value = 0;
  try {
    value = std::stoul(text, &used, 16);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != text.size() || text.size() > 8 || text.front() == '-') {
    throw UsageError("-index must be a WAL index in hexadecimal, such as 0000000a, not \"" + text +
                     "\"");
  }
  return static_cast<std::uint32_t>(value);
}

RestoreOptions read_options(const ParsedFlags& flags) {
  const auto text = [&](const char* name) { return flags.values[name].as<std::string>(); };
  RestoreOptions options;
  if (flags.has("o")) options.output = text("o");
  if (flags.has("timestamp")) {
    options.timestamp = parse_rfc3339(text("timestamp"));
    if (!options.timestamp) {
      throw UsageError("-timestamp must be in RFC 3339, such as 2026-01-02T15:04:05Z, not \"" +
                       text("timestamp") + "\"");
    }
  }
  if (flags.has("generation")) {
    options.generation = parse_generation_flag(flags);
  }
  if (flags.has("index")) options.index = parse_index(text("index"));
  if (options.index && options.timestamp) {
    throw UsageError("-index and -timestamp cannot be used together");
  }
  if (flags.has("parallelism")) {
    options.parallelism = flags.values["parallelism"].as<unsigned>();
    if (options.parallelism == 0 || options.parallelism > 256) {
      throw UsageError("-parallelism must be from 1 to 256");
    }
  }
  return options;
}

void print_json(const RestoreResult& result) {
  const std::string position = describe_position(result.generation, result.position);
  nlohmann::ordered_json json;
  json["output"] = result.output;
  json["generation"] = result.generation.str();
  json["index"] = result.position.index;
  json["offset"] = result.position.offset;
  json["position"] = position;
  json["commit_time"] = format_rfc3339(result.commit_time);
  json["pages"] = result.pages;
  json["page_size"] = result.page_size;
  // A path need not be UTF-8.
  std::printf("%s\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

}  // namespace

std::string restore_usage(const std::string& program) {
  return "usage: " + program +
         " [flags] URL\n\n"
         "Restores a database from a replica, s3://bucket/path or file:///path, or from that of a\n"
         "database named in the configuration file.\n\n" +
         describe_flags(known_flags());
}

int restore_command(const Words& words) {
  const ParsedFlags flags = parse_flags(words, known_flags());
  if (flags.on("help")) throw UsageError("help was asked for");
  if (flags.arguments.size() != 1) {
    throw UsageError(flags.arguments.empty() ? "a replica URL is required"
                                             : "too many arguments: one replica URL is expected");
  }
  log::set_sink(log::descriptor_sink(2), flags.on("v") ? log::Level::debug : log::Level::info);

  RestoreOptions options = read_options(flags);
  const ReplicaArgument source = resolve_replica(flags.arguments.front());
  if (options.output.empty()) options.output = source.database;
  if (options.output.empty()) {
    options.output = std::filesystem::path(source.replica.store.path).filename().string();
  }
  if (options.output.empty()) {
    throw UsageError("-o is required: the URL names no file to restore to");
  }
  std::error_code ignored;
  if (flags.on("if-db-not-exists") && std::filesystem::exists(options.output, ignored)) {
    log::info("database exists, nothing to restore", {{"path", options.output}});
    return 0;
  }

  RestoreResult result;
  ProgressDisplay display("restoring " + options.output);
  try {
    with_store(source.replica.store,
               [&](Store& store, asio::thread_pool& workers) -> asio::awaitable<void> {
                 log::debug("restoring", {{"from", store.url()}, {"to", options.output}});
                 result = co_await restore(
                     store, options, workers,
                     [&](const RestoreProgress& progress) { display.show(progress); });
               });
  } catch (const NothingToRestore& nothing) {
    if (!flags.on("if-replica-exists")) throw;
    display.clear();
    log::info(nothing.what());
    return 0;
  }
  display.clear();
  if (flags.on("json")) {
    print_json(result);
  } else {
    std::printf("restored %s: %s, as of %s\n", result.output.c_str(),
                describe_position(result.generation, result.position).c_str(),
                format_rfc3339(result.commit_time).c_str());
  }
  return 0;
}

}  // namespace sqlstream::tools
