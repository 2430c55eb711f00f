#include <cstdio>

#include "tools/command.h"
#include "tools/process.h"
#include "tools/restore_command.h"

int main(int argc, char** argv) {
  using namespace sqlstream::tools;
  prepare_process();
  const Words words(argv + 1, argv + argc);
  const Program program{"sqlstream-restore"};
  return run_command_line(program, program.name, restore_program(), words,
                          [](const ParsedFlags& flags) {
                            if (!flags.on("version")) return restore_command(flags);
                            std::puts(SQLSTREAM_VERSION);
                            return 0;
                          });
}
