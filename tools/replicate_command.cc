#include "tools/replicate_command.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <map>
#include <thread>
#include <unistd.h>

#include "base/log.h"
#include "config/units.h"
#include "replicate/replication.h"
#include "shipper/connection.h"
#include "tools/child.h"
#include "tools/program_file.h"
#include "tools/shell_words.h"
#include "tools/source.h"
#include "tools/sql.h"
#include "vfs/shim.h"

namespace sqlstream::tools {
namespace {

// With a program of our own there is nobody behind it: what it committed is shipped, or the store
// says no.
constexpr auto kAfterProgram = std::chrono::hours(1);

struct Job {
  std::vector<DatabaseSettings> databases;  // each with a replica
  std::string exec;
};

DatabaseSettings database_of_arguments(const Words& arguments) {
  if (arguments.size() < 2) {
    throw Error("must specify at least one replica URL for " + arguments.front());
  }
  const auto environment = config::process_environment();
  DatabaseSettings database;
  database.path = canonical_database(arguments.front());
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::string url = config::expand_replica_url(arguments[i], database.path);
    database.replicas.push_back(config::parse_replica_url(url, environment));
  }
  return database;
}

Job read_job(const ParsedFlags& flags) {
  Job job;
  if (!flags.arguments.empty()) {
    if (flags.text("config")) throw Error("cannot specify a replica URL and the -config flag");
    log_to_stdout();
    job.databases.push_back(database_of_arguments(flags.arguments));
  } else {
    config::Config config = load_config(flags);
    job.exec = config.exec;
    job.databases = std::move(config.databases);
    std::erase_if(job.databases, [](const auto& database) { return database.replicas.empty(); });
  }
  if (const auto exec = flags.text("exec")) job.exec = *exec;
  if (job.exec.empty()) return job;
  for (auto& database : job.databases) {
    database.shutdown_timeout =
        std::max<std::chrono::nanoseconds>(database.shutdown_timeout, kAfterProgram);
  }
  return job;
}

void log_replica(const ReplicaSettings& replica) {
  const StoreSettings& store = replica.store;
  const bool s3 = store.type == StoreSettings::Type::s3;
  log::Fields fields = {{"name", replica.name},
                        {"type", s3 ? "s3" : "file"},
                        {"sync-interval", config::format_duration(replica.sync_interval)}};
  if (s3) fields.emplace_back("bucket", store.bucket);
  fields.emplace_back("path", store.path);
  if (s3) {
    fields.emplace_back("region", store.region);
    fields.emplace_back("endpoint", store.endpoint);
  }
  log::info("replicating to", fields);
}

void log_job(const Job& job) {
  log::info("sqlstream", {{"version", SQLSTREAM_VERSION}});
  if (job.databases.empty()) log::error("no databases specified in configuration");
  for (const auto& database : job.databases) {
    log::info("initialized db", {{"path", database.path}});
    for (const auto& replica : database.replicas) log_replica(replica);
  }
}

// The VFS is to know these databases, whatever the environment says.
void tell_vfs(const std::vector<DatabaseSettings>& databases) {
  std::map<std::string, DatabaseSettings> by_path;
  for (const auto& database : databases) {
    // Programs without the VFS checkpoint what is followed.
    by_path.emplace(database.path, database).first->second.snapshots_in_place = false;
  }
  use_settings(
      [by_path](const std::string& path, const std::string&) -> std::optional<DatabaseSettings> {
        const auto found = by_path.find(path);
        if (found == by_path.end()) return std::nullopt;
        return found->second;
      });
}

std::vector<Follower::Settings> followed(const std::vector<DatabaseSettings>& databases) {
  std::vector<Follower::Settings> result;
  for (const auto& database : databases) {
    Follower::Settings settings{database.path,
                                std::chrono::hours(24),
                                {database.min_checkpoint_pages, database.max_checkpoint_pages}};
    for (const auto& replica : database.replicas) {
      settings.interval = std::min(settings.interval, replica.sync_interval);
    }
    result.push_back(std::move(settings));
  }
  return result;
}

// What ends a process often comes twice, to it and to its group: as from timeout(1), or a
// supervisor.
constexpr timespec kSameSignal{1, 0};

// From now on TERM and INT end this process at once, but not what came with the first one.
void end_at_a_signal(std::optional<int> code) {
  std::thread([code] {
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::sigaddset(&signals, SIGINT);
    ::nanosleep(&kSameSignal, nullptr);
    constexpr timespec kNow{};
    while (::sigtimedwait(&signals, nullptr, &kNow) > 0) {
    }
    int number = 0;
    ::sigwait(&signals, &number);
    ::_exit(code.value_or(128 + number));
  }).detach();
}

void finish(Replication& replication) {
  // While the databases are open: a snapshot needs that. Then what came in the last moment.
  flush_databases(true);
  replication.stop();
  flush_at_exit();
  log::info("sqlstream shut down");
}

int replicate_until_signal(const Job& job) {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  Replication replication(followed(job.databases));
  int number = 0;
  ::sigwait(&signals, &number);
  log::info("signal received, sqlstream shutting down");
  end_at_a_signal({});
  finish(replication);
  return 0;
}

struct ProgramToRun {
  Words words;
  std::string file;
};

ProgramToRun find_exec(const std::string& command) {
  ProgramToRun program{shell_words(command), {}};
  if (program.words.empty()) throw Error("cannot start exec command: it is empty");
  const char* path = std::getenv("PATH");
  const std::string& name = program.words.front();
  const auto file = find_program(name, path != nullptr ? path : "/usr/bin:/bin");
  if (!file) throw Error("cannot start exec command: there is no program " + name);
  program.file = *file;
  return program;
}

std::vector<std::string> environment_words() {
  std::vector<std::string> words;
  for (char** entry = environ; *entry != nullptr; ++entry) words.emplace_back(*entry);
  return words;
}

int replicate_during_program(const Job& job) {
  const ProgramToRun program = find_exec(job.exec);
  const ChildSignals signals;
  Replication replication(followed(job.databases));
  replication.wait_until_ready();
  const pid_t child = start_child(program.file, program.words, environment_words(), signals);
  const int code = signals.wait(child);
  log::info("subprocess exited, sqlstream shutting down");
  end_at_a_signal(code);
  finish(replication);
  if (code != 0) log::error("failed to run", {{"error", "exit status " + std::to_string(code)}});
  return code;
}

}  // namespace

int replicate_command(const ParsedFlags& flags) {
  register_vfs();
  const Job job = read_job(flags);
  log_job(job);
  tell_vfs(job.databases);
  return job.exec.empty() ? replicate_until_signal(job) : replicate_during_program(job);
}

}  // namespace sqlstream::tools
