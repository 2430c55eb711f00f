#include "tools/restore_command.h"

#include <charconv>
#include <cstdio>
#include <exception>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "config/path.h"
#include "restore/plan.h"
#include "restore/restore.h"
#include "restore/target_file.h"
#include "tools/process.h"
#include "tools/progress.h"
#include "tools/session.h"
#include "tools/source.h"

namespace sqlstream::tools {
namespace {

std::optional<std::uint32_t> parse_number(const std::string& text, int base) {
  std::uint32_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, code] = std::from_chars(text.data(), end, value, base);
  if (code != std::errc() || rest != end) return std::nullopt;
  return value;
}

RestoreOptions read_options(const ParsedFlags& flags) {
  RestoreOptions options;
  options.output = config::expand_home(flags.text("o").value_or(""), config::process_environment());
  options.generation = generation_flag(flags);
  if (const auto text = flags.text("timestamp")) {
    options.timestamp = parse_rfc3339(*text);
    if (!options.timestamp) {
      throw Error(
          "invalid -timestamp \"" + *text +
          "\", must specify in ISO 8601 format, with Z or an offset (e.g. 2000-01-01T00:00:00Z)");
    }
  }
  if (const auto text = flags.text("index")) {
    options.index = parse_number(*text, 16);
    if (!options.index) {
      throw Error("-index must be a WAL index in hexadecimal, such as 0000000a, not \"" + *text +
                  '"');
    }
  }
  if (options.index && options.timestamp) {
    throw Error("cannot specify index & timestamp to restore");
  }
  if (const auto text = flags.text("parallelism")) {
    options.parallelism = parse_number(*text, 10).value_or(0);
    if (options.parallelism == 0 || options.parallelism > 256) {
      throw Error("-parallelism must be a number from 1 to 256, not \"" + *text + '"');
    }
  }
  return options;
}

RestoreTarget look_into(const ReplicaSettings& replica, const RestoreOptions& options) {
  RestoreTarget target;
  with_store(replica.store, [&](Store& store, asio::thread_pool&) -> asio::awaitable<void> {
    target = co_await find_target(store, options);
  });
  return target;
}

// The replica with the latest data. Sets options.generation to what was found in it.
ReplicaSettings choose_replica(const Source& source, RestoreOptions& options) {
  if (source.replicas.size() == 1) return source.replicas.front();
  const ReplicaSettings* best = nullptr;
  RestoreTarget latest;
  std::exception_ptr nothing;
  for (const ReplicaSettings& replica : source.replicas) {
    try {
      const RestoreTarget target = look_into(replica, options);
      if (best != nullptr && !is_newer(target, latest)) continue;
      best = &replica;
      latest = target;
    } catch (const NoBackup&) {
      if (!nothing) nothing = std::current_exception();
    } catch (const NothingToRestore&) {
      nothing = std::current_exception();
    } catch (const Error& error) {
      // It may be the one with the latest data: whoever can do without must say so.
      throw Error(std::string(error.what()) + "; to restore from another replica, name it with " +
                  "-replica (this is " + replica.name + ')');
    }
  }
  if (best == nullptr) std::rethrow_exception(nothing);
  options.generation = latest.generation;
  log::info("restoring from the replica with the latest data",
            {{"replica", best->name},
             {"generation", latest.generation.str()},
             {"latest", format_rfc3339(latest.latest)}});
  return *best;
}

RestoreResult restore_from(const ReplicaSettings& replica, const RestoreOptions& options) {
  RestoreResult result;
  ProgressDisplay display("restoring " + options.output);
  with_store(replica.store, [&](Store& store, asio::thread_pool& workers) -> asio::awaitable<void> {
    log::debug("restoring", {{"from", store.url()}, {"to", options.output}});
    result = co_await restore(store, options, workers,
                              [&](const RestoreProgress& progress) { display.show(progress); });
  });
  return result;
}

void print_json(const RestoreResult& result, const std::string& replica) {
  const std::string position = describe_position(result.generation, result.position);
  nlohmann::ordered_json json;
  json["output"] = result.output;
  json["replica"] = replica;
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

void print_text(const RestoreResult& result, const std::string& replica) {
  std::printf("restored %s from replica %s: %s, as of %s\n", result.output.c_str(), replica.c_str(),
              describe_position(result.generation, result.position).c_str(),
              format_rfc3339(result.commit_time).c_str());
}

int skip(const std::string& existing) {
  log::info("database already exists, skipping", {{"path", existing}});
  return 0;
}

}  // namespace

int restore_command(const ParsedFlags& flags) {
  keep_freed_memory();
  RestoreOptions options = read_options(flags);
  options.make_folder = true;
  const Source source = resolve_source(flags);
  if (options.output.empty()) options.output = source.database;
  if (options.output.empty()) throw Error("output path required: name the file with -o");
  std::error_code ignored;
  if (flags.on("if-db-not-exists") && std::filesystem::exists(options.output, ignored)) {
    return skip(options.output);
  }
  try {
    const ReplicaSettings replica = choose_replica(source, options);
    if (!source.database.empty()) options.log_as = {{"db", source.database}};
    options.log_as.emplace_back("replica", replica.name);
    const RestoreResult result = restore_from(replica, options);
    if (flags.on("json")) {
      print_json(result, replica.name);
    } else {
      print_text(result, replica.name);
    }
  } catch (const OutputExists&) {
    if (!flags.on("if-db-not-exists")) throw;
    return skip(options.output);  // another restore was faster
  } catch (const NoBackup& none) {
    if (!flags.on("if-replica-exists")) throw;
    log::info(none.what());
  }
  return 0;
}

}  // namespace sqlstream::tools
