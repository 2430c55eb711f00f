#include <cstdio>
#include <filesystem>
#include <string>

#include "tools/command.h"
#include "tools/config_command.h"
#include "tools/list_command.h"
#include "tools/process.h"
#include "tools/replicate_command.h"
#include "tools/restore_command.h"
#include "tools/run_command.h"
#include "tools/status_command.h"
#include "tools/sync_command.h"
#include "tools/verify_command.h"

namespace sqlstream::tools {
namespace {

bool asks_for_help(const std::string& word) {
  return word == "help" || word == "-h" || word == "-help" || word == "--help";
}

int run_named(const std::string& name, const ParsedFlags& flags) {
  if (name == "config") return config_command(flags);
  if (name == "databases") return databases_command(flags);
  if (name == "replicate") return replicate_command(flags);
  if (name == "restore") return restore_command(flags);
  if (name == "run") return run_command(flags);
  if (name == "status") return status_command(flags);
  if (name == "sync") return sync_command(flags);
  if (name == "verify") return verify_command(flags);
  if (name == "version") {
    std::puts(SQLSTREAM_VERSION);
    return 0;
  }
  return list_command(name, flags);
}

int show_help(const Program& program, const Words& words) {
  const Command* command = words.empty() ? nullptr : find_command(words.front());
  const std::string text = command != nullptr
                               ? usage_of(program.name + ' ' + command->name, *command)
                               : usage_of_program(program.name);
  std::fputs(text.c_str(), stdout);
  return program.help_code;
}

int refuse_unknown(const Program& program, const std::string& name) {
  const std::string called = program.name + ' ' + name;
  std::fprintf(stderr, "%s: %s: unknown command\n\n%s", program.name.c_str(), called.c_str(),
               usage_of_program(program.name).c_str());
  return 1;
}

int run_program(const Program& program, const Words& words) {
  // Litestream's answer to no command is its help, and a failure.
  if (words.empty()) {
    show_help(program, {});
    return 1;
  }
  const std::string& name = words.front();
  const Words rest(words.begin() + 1, words.end());
  if (asks_for_help(name)) return show_help(program, rest);
  const Command* command = find_command(name);
  if (command == nullptr) return refuse_unknown(program, name);
  return run_command_line(program, program.name + ' ' + name, *command, rest,
                          [&](const ParsedFlags& flags) { return run_named(name, flags); });
}

}  // namespace
}  // namespace sqlstream::tools

int main(int argc, char** argv) {
  using namespace sqlstream::tools;
  prepare_process();
  const Words words(argv + 1, argv + argc);
  // What was made for Litestream can have it by a link of that name: there, help is a failure.
  const bool linked = argc > 0 && std::filesystem::path(argv[0]).filename() == "litestream";
  return run_program(linked ? Program{"litestream", 1} : Program{"sqlstream"}, words);
}
