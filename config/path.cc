#include "config/path.h"

#include <filesystem>
#include <new>
#include <system_error>

#include "base/error.h"

namespace sqlstream::config {

namespace fs = std::filesystem;

namespace {

// Want of memory says nothing of the path.
std::string reason(const std::error_code& code) {
  if (code == std::errc::not_enough_memory) throw std::bad_alloc();
  return code.message();
}

}  // namespace

std::string canonical_path(const std::string& path) {
  std::error_code code;
  fs::path file = fs::absolute(path, code);
  if (code || path.empty()) {
    throw Error("cannot resolve the path \"" + path +
                "\": " + (path.empty() ? "it is empty" : reason(code)));
  }
  // SQLite follows a link also when its target does not exist yet, so the name is that of the
  // target. As many links as SQLite follows; a longer chain cannot be opened anyway.
  for (int links = 0; links < 100; ++links) {
    const fs::path folder = fs::weakly_canonical(file.parent_path(), code);
    if (code) {
      throw Error("cannot resolve the folder of \"" + path + "\": " + reason(code));
    }
    file = (folder / file.filename()).lexically_normal();
    if (!fs::is_symlink(file, code)) return file.string();
    const fs::path target = fs::read_symlink(file, code);
    if (code) throw Error("cannot read the link \"" + file.string() + "\": " + reason(code));
    file = folder / target;
  }
  throw Error("cannot resolve \"" + path + "\": too many symbolic links");
}

std::string database_path(const std::string& path) {
  try {
    return canonical_path(path);
  } catch (const Error&) {
    std::error_code code;
    const fs::path absolute = fs::absolute(path, code);
    if (code || path.empty()) throw;
    return absolute.lexically_normal().string();
  }
}

std::string expand_home(const std::string& path, const Environment& env) {
  if (path != "~" && !path.starts_with("~/")) return path;
  const auto home = env("HOME");
  if (!home || home->empty()) {
    throw Error("cannot expand \"~\" in \"" + path + "\": HOME is not set");
  }
  return *home + path.substr(1);
}

}  // namespace sqlstream::config
