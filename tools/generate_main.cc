// Writes what is installed beside the programs: generate PROGRAM KIND, with bash, zsh, fish or man.

#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "tools/completions.h"
#include "tools/manual.h"

int main(int argc, char** argv) {
  using namespace sqlstream::tools;
  const std::map<std::string, std::function<std::string(const ProgramShape&)>> kinds = {
      {"bash", bash_completion},
      {"zsh", zsh_completion},
      {"fish", fish_completion},
      {"man", manual_page}};
  for (const ProgramShape& program : programs()) {
    if (argc != 3 || program.name != argv[1] || kinds.count(argv[2]) == 0) continue;
    const std::string text = kinds.at(argv[2])(program);
    return std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0 ? 1 : 0;
  }
  std::fputs("usage: generate sqlstream|sqlstream-restore bash|zsh|fish|man\n", stderr);
  return 2;
}
