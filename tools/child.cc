#include "tools/child.h"

#include <array>
#include <cstring>
#include <optional>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

namespace sqlstream::tools {
namespace {

constexpr std::array kForwarded{SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  result.reserve(words.size() + 1);
  for (auto& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

// Every child that has ended, also those that were handed to us; the code of the one that counts.
std::optional<int> collect(pid_t child) {
  std::optional<int> code;
  int status = 0;
  while (true) {
    const pid_t ended = ::waitpid(-1, &status, WNOHANG);
    if (ended <= 0) return code;
    if (ended != child) continue;
    if (WIFEXITED(status)) code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) code = 128 + WTERMSIG(status);
  }
}

}  // namespace

ChildSignals::ChildSignals() {
  ::sigemptyset(&signals_);
  ::sigaddset(&signals_, SIGCHLD);
  for (const int number : kForwarded) ::sigaddset(&signals_, number);
  ::pthread_sigmask(SIG_BLOCK, &signals_, &before_);
}

int ChildSignals::wait(pid_t child) const {
  while (true) {
    siginfo_t info{};
    const int number = ::sigwaitinfo(&signals_, &info);
    if (number < 0) continue;
    if (number != SIGCHLD) {
      // What a terminal sends goes to the whole group: the child has it already.
      if (info.si_code <= 0) ::kill(child, number);
    } else if (const auto code = collect(child)) {
      return *code;
    }
  }
}

pid_t start_child(const std::string& file, std::vector<std::string> words,
                  std::vector<std::string> environment, const ChildSignals& signals) {
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t defaults;
  ::sigemptyset(&defaults);
  for (const int ignored_here : {SIGPIPE, SIGXFSZ}) ::sigaddset(&defaults, ignored_here);
  ::posix_spawnattr_setsigmask(&attributes, &signals.before());
  ::posix_spawnattr_setsigdefault(&attributes, &defaults);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t child = -1;
  const auto argv = pointers(words);
  const auto envp = pointers(environment);
  const int error =
      ::posix_spawn(&child, file.c_str(), nullptr, &attributes, argv.data(), envp.data());
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) throw Error("cannot run " + file + ": " + std::strerror(error));
  return child;
}

}  // namespace sqlstream::tools
