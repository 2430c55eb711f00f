#include "tools/command.h"

#include <cstdio>
#include <exception>
#include <new>

#include "tools/flags.h"

namespace sqlstream::tools {

int run_command_line(const std::string& program, const std::string& usage,
                     const std::function<int()>& command) {
  try {
    return command();
  } catch (const UsageError& error) {
    std::fprintf(stderr, "%s: %s\n\n%s", program.c_str(), error.what(), usage.c_str());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: out of memory\n", program.c_str());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", program.c_str(), error.what());
    return 1;
  }
}

}  // namespace sqlstream::tools
