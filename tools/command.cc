#include "tools/command.h"

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <poll.h>
#include <unistd.h>

namespace sqlstream::tools {
namespace {

// Like any program in a pipe, silently when nobody reads any more.
void finish_output() {
  const bool flushed = std::fflush(stdout) == 0;
  if (flushed && std::ferror(stdout) == 0) return;
  pollfd output{STDOUT_FILENO, POLLOUT, 0};
  if (::poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0) {
    std::signal(SIGPIPE, SIG_DFL);
    std::raise(SIGPIPE);
  }
  throw Error("cannot write to the standard output");
}

}  // namespace

int run_command_line(const Program& program, const std::string& called, const Command& command,
                     const Words& words, const std::function<int(const ParsedFlags& flags)>& work) {
  const std::string usage = usage_of(called, command);
  const char* name = program.name.c_str();
  try {
    const ParsedFlags flags = parse_flags(words, command);
    if (flags.help) std::fputs(usage.c_str(), stdout);
    const int code = flags.help ? program.help_code : work(flags);
    finish_output();
    return code;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "%s: %s\n\n%s", name, error.what(), usage.c_str());
    return command.usage_code;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: out of memory\n", name);
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
}

}  // namespace sqlstream::tools
