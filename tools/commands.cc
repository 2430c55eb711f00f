#include "tools/commands.h"

#include <algorithm>

namespace sqlstream::tools {
namespace {

const std::string kSource = "DB_PATH|REPLICA_URL";

const Flag kConfigFlag = {"config", "PATH", "the configuration file", Completion::file};
const std::vector<Flag> kConfigFlags = {
    kConfigFlag,
    {"no-expand-env", "", "take $VARIABLES in the configuration file as they are written"},
};
const Flag kJson = {"json", "", "print JSON"};

std::vector<Flag> with_config(std::vector<Flag> flags) {
  flags.insert(flags.begin(), kConfigFlags.begin(), kConfigFlags.end());
  return flags;
}

const std::vector<Flag> kListFlags =
    with_config({{"replica", "NAME", "only this replica of the database"}, kJson});

std::vector<Flag> list_flags_with_generation() {
  std::vector<Flag> flags = kListFlags;
  flags.insert(flags.end() - 1, {"generation", "NAME", "only this generation"});
  return flags;
}

const std::vector<Flag> kRestoreFlags = with_config({
    {"o", "PATH", "the file to restore to; must not exist (default: the database's own path)",
     Completion::file},
    {"replica", "NAME", "from this replica (default: the one with the latest data)"},
    {"generation", "NAME", "from this generation (default: the one with the latest data)"},
    {"index", "NUM", "up to the end of this WAL index, in hexadecimal"},
    {"timestamp", "TIME", "up to this moment, as 2026-01-02T15:04:05.678Z"},
    {"parallelism", "NUM", "large downloads at a time (default: 8)"},
    {"if-db-not-exists", "", "exit with 0 when the output exists already"},
    {"if-replica-exists", "", "exit with 0 when there is nothing to restore"},
    {"json", "", "print what was reached as JSON"},
    {"v", "", "log more"},
});

const std::string kRestoreAbout =
    "Restores a database from a replica: one named by a URL (s3://bucket/path, file:///path), or "
    "those that the configuration file names for a database. The output appears whole or not at "
    "all, and never over a file that exists.";

const std::vector<Command> kCommands = {
    {"databases", "", "list the databases of the configuration file",
     "Lists every database of the configuration file with the names of its replicas.",
     with_config({kJson})},
    {"generations",
     kSource,
     "list the generations of a database",
     "Lists the generations in each replica of a database, or in the replica named by a URL, with "
     "the time they cover and how far their end is behind the database's last write.",
     kListFlags,
     {"/srv/app.db", "-replica s3 /srv/app.db", "s3://mybucket/app.db"},
     Completion::file},
    {"replicate",
     "[DB_PATH REPLICA_URL...]",
     "replicate databases that other programs write",
     "Replicates the databases of the configuration file, or the one named with its replicas, for "
     "programs that do not open them through sqlstream. Ends at SIGTERM or SIGINT, when what is "
     "committed is shipped; with -exec when that program ends, and as it does.",
     with_config(
         {{"exec", "CMD", "run a program, and replicate until it ends", Completion::program}}),
     {"", "-exec 'app --port 8080'", "/srv/app.db s3://mybucket/app.db"},
     Completion::file},
    {"restore",
     kSource,
     "restore a database from a replica",
     kRestoreAbout,
     kRestoreFlags,
     {"/srv/app.db", "-o copy.db s3://mybucket/app.db",
      "-timestamp 2026-03-01T12:30:00Z -o then.db /srv/app.db"},
     Completion::file},
    {"snapshots",
     kSource,
     "list the snapshots of a database",
     "Lists the snapshots in each replica of a database, or in the replica named by a URL.",
     list_flags_with_generation(),
     {"/srv/app.db", "s3://mybucket/app.db"},
     Completion::file},
    {"wal",
     kSource,
     "list the WAL segments of a database",
     "Lists the WAL segments in each replica of a database, or in the replica named by a URL.",
     list_flags_with_generation(),
     {"/srv/app.db", "-generation 6d035c34639a8e8f s3://mybucket/app.db"},
     Completion::file},
    {"config",
     "[DB_PATH]",
     "show the settings that are in force, and where each comes from",
     "Reads the configuration file, if there is one, as the extension does and prints every "
     "setting "
     "of every replica, or of one database, with its value and where that comes from: a line of "
     "the "
     "file, an environment variable, the endpoint, the default. Secrets are masked.",
     with_config({kJson}),
     {"", "-config ./litestream.yml", "/srv/app.db"},
     Completion::file,
     2},
    {"run",
     "-- COMMAND [ARGUMENT]...",
     "run a program with its databases replicated",
     "Runs a program in which every SQLite database is opened through sqlstream, and exits as it "
     "does. Works for programs that link libsqlite3 dynamically.",
     {kConfigFlag,
      {"replica", "URL",
       "where to replicate what the file does not name; {name} and {path} stand for the "
       "database's"}},
     {"-replica 's3://mybucket/{name}' -- sqlite3 app.db", "-config ./litestream.yml -- app"},
     Completion::program,
     2,
     true},
    {"status",
     "[DB_PATH]",
     "show how replication stands",
     "Shows for each replica of a database, or of all databases of the configuration file, how far "
     "it is and how far behind. Looks from outside: it works whether programs have the database "
     "open or not, and disturbs none.",
     with_config({kJson,
                  {"watch", "", "show it again every 2 seconds"},
                  {"max-lag", "DURATION", "exit with 1 when a replica is further behind"}}),
     {"", "-max-lag 1m /srv/app.db"},
     Completion::file,
     2},
    {"sync",
     "DB_PATH",
     "ship what is committed, and wait for it",
     "Returns when everything that was committed before is in every replica of the database, "
     "whichever process ships it. Fails with one sentence when that takes too long.",
     with_config({{"timeout", "DURATION", "how long to wait (default: 30s)"}}),
     {"/srv/app.db", "-timeout 5s /srv/app.db"},
     Completion::file,
     2},
    {"verify",
     "DB_PATH|-all",
     "prove that the replicas restore",
     "Writes a row into the table _sqlstream_verification, waits until it is in every replica, "
     "restores each replica into a temporary file, looks for the row, and runs SQLite's integrity "
     "check. The file is in the folder TMPDIR names, else beside the database, and has its size.",
     with_config({{"all", "", "every database of the configuration file that has a replica"},
                  {"full", "", "compare every page with the database, too"},
                  {"no-write", "", "write no row: only what is restored is checked"},
                  {"timeout", "DURATION", "how long to wait for the replicas (default: 1m0s)"}}),
     {"/srv/app.db", "-all -full"},
     Completion::file,
     2},
    {"version", "", "print the version", "Prints the version.", {}},
};

std::string padded(std::string text, std::size_t width) {
  text.resize(std::max(text.size() + 2, width), ' ');
  return text;
}

}  // namespace

const std::vector<Command>& commands() {
  return kCommands;
}

const Command* find_command(std::string_view name) {
  const auto found = std::find_if(kCommands.begin(), kCommands.end(),
                                  [&](const Command& command) { return command.name == name; });
  return found == kCommands.end() ? nullptr : &*found;
}

const Command& restore_program() {
  static const Command program = [] {
    Command command = *find_command("restore");
    command.flags.push_back({"version", "", "print the version"});
    command.usage_code = 2;
    return command;
  }();
  return program;
}

std::vector<ProgramShape> programs() {
  return {{"sqlstream", "list, inspect and restore replicas of SQLite databases", commands(), true},
          {"sqlstream-restore",
           "restore a SQLite database from a replica",
           {restore_program()},
           false}};
}

std::string usage_of_program(const std::string& program) {
  std::string text = "usage: " + program + " COMMAND [flags] [ARGUMENT]...\n\n";
  for (const Command& command : commands()) {
    text += padded("  " + command.name, 15) + command.summary + '\n';
  }
  return text + padded("  help", 15) + "show this, or with a command what it takes\n";
}

std::string usage_of(const std::string& program, const Command& command) {
  std::string text = "usage: " + program;
  if (!command.flags.empty()) text += " [flags]";
  if (!command.arguments.empty()) text += ' ' + command.arguments;
  text += "\n\n" + wrapped(command.about, 80) + '\n';
  if (!command.flags.empty()) text += '\n';
  for (const Flag& flag : command.flags) {
    text += padded("  " + shown_flag(flag), 22) + flag.about + '\n';
  }
  if (!command.examples.empty()) text += "\nexamples:\n";
  for (const std::string& example : command.examples) {
    text += "  " + program + (example.empty() ? "" : " ") + example + '\n';
  }
  return text;
}

std::string shown_flag(const Flag& flag) {
  return '-' + flag.name + (flag.value.empty() ? "" : ' ' + flag.value);
}

std::string wrapped(std::string_view text, std::size_t width) {
  std::string result;
  while (text.size() > width) {
    const std::size_t space = text.rfind(' ', width);
    if (space == std::string_view::npos) break;
    result += std::string(text.substr(0, space)) + '\n';
    text.remove_prefix(space + 1);
  }
  return result + std::string(text);
}

}  // namespace sqlstream::tools
