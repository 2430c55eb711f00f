#include <cstdio>

#include "tools/process.h"
#include "tools/restore_command.h"

int main(int argc, char** argv) {
  using namespace sqlstream::tools;
  prepare_process();
  const Words words(argv + 1, argv + argc);
  if (words.size() == 1 && (words[0] == "-help" || words[0] == "--help")) {
    std::fputs(restore_usage("sqlstream-restore").c_str(), stdout);
    return 0;
  }
  if (words.size() == 1 && (words[0] == "-version" || words[0] == "--version")) {
    std::puts(SQLSTREAM_VERSION);
    return 0;
  }
  return run_command_line("sqlstream-restore", restore_usage("sqlstream-restore"),
                          [&] { return restore_command(words); });
}
