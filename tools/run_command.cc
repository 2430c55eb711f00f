#include "tools/run_command.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "config/config.h"
#include "config/path.h"
#include "tools/child.h"
#include "tools/program_file.h"

namespace sqlstream::tools {
namespace {

namespace fs = std::filesystem;

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
  if (const auto config_file = flags.text("config")) {
    // As the VFS will read it, from wherever the program goes; what is wrong is said now.
    const auto named =
        config::canonical_path(config::expand_home(*config_file, config::process_environment()));
    config::read_config(named, config::process_environment());
    set.emplace_back("SQLSTREAM_CONFIG", named);
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
  // Few programs show SQLite's own log, and this one need not know of us.
  if (std::getenv("SQLSTREAM_LOG") == nullptr) {
    set.emplace_back("SQLSTREAM_LOG", "stderr");
    if (std::getenv("SQLSTREAM_LOG_LEVEL") == nullptr) {
      set.emplace_back("SQLSTREAM_LOG_LEVEL", "warn");
    }
  }
  const Mark mark;
  if (mark.usable()) set.emplace_back("SQLSTREAM_RUN_MARK", mark.file());

  const ChildSignals signals;
  const int code = signals.wait(start_child(*file, child_words, environment_with(set), signals));
  if (mark.usable() && !mark.left()) {
    std::fprintf(stderr,
                 "sqlstream: %s opened no database through sqlstream, so nothing was replicated; "
                 "a program with its own SQLite inside must load the sqlstream extension itself\n",
                 child_words.front().c_str());
  }
  return code;
}

}  // namespace sqlstream::tools
