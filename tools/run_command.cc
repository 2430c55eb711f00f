#include "tools/run_command.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "config/config.h"
#include "tools/program_file.h"

namespace sqlstream::tools {
namespace {

namespace fs = std::filesystem;

// What a supervisor may send to us and means for the program.
constexpr std::array kForwarded{SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

// Installed: <prefix>/bin and <prefix>/<libdir>. In a build folder: tools and vfs.
std::string find_preload_library() {
  std::error_code error;
  const fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const char* place : {"../" SQLSTREAM_LIBDIR, "../lib", "../vfs", "."}) {
    const fs::path candidate = folder / place / "sqlstream-preload.so";
    if (fs::exists(candidate, error)) return fs::weakly_canonical(candidate, error).string();
  }
  throw Error("sqlstream-preload.so is not installed beside " + folder.string() +
              ": install sqlstream completely");
}

// A folder in which the program, perhaps as another user, leaves a mark when it opens a database.
class Mark {
 public:
  Mark() {
    std::error_code ignored;
    std::string pattern = (fs::temp_directory_path(ignored) / "sqlstream-run-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) return;
    folder_ = pattern;
    ::chmod(folder_.c_str(), 01733);
  }
  ~Mark() {
    std::error_code ignored;
    if (!folder_.empty()) fs::remove_all(folder_, ignored);
  }
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;

  bool usable() const { return !folder_.empty(); }
  std::string file() const { return folder_ + "/opened"; }
  bool left() const { return ::access(file().c_str(), F_OK) == 0; }

 private:
  std::string folder_;
};

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& set) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string_view name = text.substr(0, text.find('='));
    const bool replaced =
        std::any_of(set.begin(), set.end(), [&](const auto& pair) { return pair.first == name; });
    if (!replaced) result.emplace_back(text);
  }
  for (const auto& [name, value] : set) result.push_back(name + "=" + value);
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  result.reserve(words.size() + 1);
  for (auto& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

pid_t spawn(const std::string& file, std::vector<std::string> words,
            std::vector<std::string> environment, const sigset_t& mask) {
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t defaults;
  ::sigemptyset(&defaults);
  ::sigaddset(&defaults, SIGPIPE);  // the command line ignores it
  ::posix_spawnattr_setsigmask(&attributes, &mask);
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

// Until the child has ended: its exit code, or 128 + signal as a shell has it.
int wait_forwarding(pid_t child, const sigset_t& signals) {
  while (true) {
    siginfo_t info{};
    const int number = ::sigwaitinfo(&signals, &info);
    if (number < 0) continue;
    if (number != SIGCHLD) {
      // What a terminal sends goes to the whole group: the child has it already.
      if (info.si_code <= 0) ::kill(child, number);
      continue;
    }
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) != child) continue;
    if (WIFEXITED(status)) return WEXITSTATUS(status);
    if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
  }
}

}  // namespace

int run_command(const ParsedFlags& flags) {
  const Words& child_words = flags.arguments;
  if (child_words.empty()) throw UsageError("a command is required, behind \"--\"");

  std::vector<std::pair<std::string, std::string>> set;
  if (const auto url = flags.text("replica")) {
    config::parse_replica_url(config::expand_replica_url(*url, "/database"),
                              config::process_environment());
    set.emplace_back("SQLSTREAM_REPLICA_URL", *url);
  }
  const char* path_variable = std::getenv("PATH");
  const std::string search_path = path_variable != nullptr ? path_variable : "/usr/bin:/bin";
  const auto file = find_program(child_words.front(), search_path);
  if (!file) throw Error("cannot run " + child_words.front() + ": no such program");
  if (const auto why = why_not_preloadable(*file, search_path)) {
    throw Error("cannot replicate " + child_words.front() + ": it " + *why);
  }

  std::string preload = find_preload_library();
  if (const char* others = std::getenv("LD_PRELOAD"); others != nullptr && *others != '\0') {
    preload += ":" + std::string(others);
  }
  set.emplace_back("LD_PRELOAD", preload);
  set.emplace_back("SQLSTREAM_DEFAULT_VFS", "1");
  const Mark mark;
  if (mark.usable()) set.emplace_back("SQLSTREAM_RUN_MARK", mark.file());

  sigset_t signals;
  sigset_t before;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  for (const int number : kForwarded) ::sigaddset(&signals, number);
  ::pthread_sigmask(SIG_BLOCK, &signals, &before);
  const pid_t child = spawn(*file, child_words, environment_with(set), before);
  const int code = wait_forwarding(child, signals);
  if (mark.usable() && !mark.left()) {
    std::fprintf(stderr,
                 "sqlstream: %s opened no database through sqlstream, so nothing was replicated; "
                 "a program with its own SQLite inside must load the sqlstream extension itself\n",
                 child_words.front().c_str());
  }
  return code;
}

}  // namespace sqlstream::tools
