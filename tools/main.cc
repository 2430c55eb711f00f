#include <cstdio>
#include <string>

#include "tools/command.h"
#include "tools/flags.h"
#include "tools/list_command.h"
#include "tools/process.h"
#include "tools/restore_command.h"
#include "tools/run_command.h"

namespace sqlstream::tools {
namespace {

constexpr const char* kUsage =
    "usage: sqlstream COMMAND [flags] [ARGUMENT]...\n\n"
    "  restore      restore a database from a replica\n"
    "  generations  list the generations of a replica\n"
    "  snapshots    list the snapshots of a replica\n"
    "  wal          list the WAL segments of a replica\n"
    "  run          run a program with every database opened through sqlstream\n"
    "  version      print the version\n"
    "  help         show this, or with a command what it takes\n\n";

std::string usage_of(const std::string& command) {
  if (command == "restore") return restore_usage("sqlstream restore");
  if (command == "run") return run_usage();
  if (is_list_command(command)) return list_usage(command);
  return kUsage;
}

bool asks_for_help(const std::string& word) {
  return word == "help" || word == "-h" || word == "-help" || word == "--help";
}

int dispatch(const std::string& command, const Words& words) {
  if (command == "restore") return restore_command(words);
  if (command == "run") return run_command(words);
  if (is_list_command(command)) return list_command(command, words);
  if (command == "version") {
    std::puts(SQLSTREAM_VERSION);
    return 0;
  }
  throw UsageError("unknown command \"" + command + "\"");
}

}  // namespace
}  // namespace sqlstream::tools

int main(int argc, char** argv) {
  using namespace sqlstream::tools;
  prepare_process();
  Words words(argv + 1, argv + argc);
  if (words.empty()) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  const std::string command = words.front();
  words.erase(words.begin());
  if (asks_for_help(command)) {
    std::fputs(usage_of(words.empty() ? "" : words.front()).c_str(), stdout);
    return 0;
  }
  if (words.size() == 1 && asks_for_help(words.front()) && words.front() != "help") {
    std::fputs(usage_of(command).c_str(), stdout);
    return 0;
  }
  return run_command_line("sqlstream", usage_of(command), [&] { return dispatch(command, words); });
}
