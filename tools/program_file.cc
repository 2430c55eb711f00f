#include "tools/program_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <elf.h>
#include <fcntl.h>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace sqlstream::tools {
namespace {

bool is_executable(const std::string& file) {
  struct stat st {};
  return ::stat(file.c_str(), &st) == 0 && S_ISREG(st.st_mode) && ::access(file.c_str(), X_OK) == 0;
}

template <class T>
bool read_at(int fd, std::uint64_t offset, T& value) {
  return ::pread(fd, &value, sizeof value, static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(sizeof value);
}

// Programs of another word size or byte order than this one do not load our library anyway.
std::optional<std::string> judge_elf(int fd) {
  Elf64_Ehdr header{};
  if (!read_at(fd, 0, header) || header.e_ident[EI_CLASS] != ELFCLASS64) {
    return "is a 32-bit program, and sqlstream's library is a 64-bit one";
  }
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    if (!read_at(fd, header.e_phoff + std::uint64_t{i} * header.e_phentsize, segment)) break;
    if (segment.p_type == PT_INTERP) return std::nullopt;
  }
  return "is statically linked, so nothing can be preloaded into it; load the sqlstream extension "
         "from the program itself";
}

std::optional<std::string> judge_script(int fd, const std::string& search_path) {
  std::array<char, 256> head{};
  const auto n = ::pread(fd, head.data(), head.size() - 1, 0);
  std::istringstream line(
      std::string(head.data(), static_cast<std::size_t>(std::max<ssize_t>(n, 0))).substr(2));
  std::string first;
  std::getline(line, first);
  std::istringstream words(first);
  std::string interpreter;
  words >> interpreter;
  if (interpreter.ends_with("/env")) {
    std::string word;
    while (words >> word && (word.front() == '-' || word.find('=') != std::string::npos)) {
    }
    const auto found = find_program(word, search_path);
    if (!found) return std::nullopt;  // env says it better
    interpreter = *found;
  }
  // One level: the kernel follows a few, but such interpreters are rare.
  UniqueFd program(::open(interpreter.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 4> magic{};
  if (!program || !read_at(program.get(), 0, magic)) return std::nullopt;
  if (std::memcmp(magic.data(), ELFMAG, SELFMAG) != 0) return std::nullopt;
  auto why = judge_elf(program.get());
  if (why) return "is run by " + interpreter + ", which " + *why;
  return std::nullopt;
}

}  // namespace

std::optional<std::string> find_program(const std::string& program,
                                        const std::string& search_path) {
  if (program.empty()) return std::nullopt;
  if (program.find('/') != std::string::npos) {
    return is_executable(program) ? std::optional(program) : std::nullopt;
  }
  std::istringstream folders(search_path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = (folder.empty() ? "." : folder) + "/" + program;
    if (is_executable(file)) return file;
  }
  return std::nullopt;
}

std::optional<std::string> why_not_preloadable(const std::string& file,
                                               const std::string& search_path) {
  struct stat st {};
  if (::geteuid() != 0 && ::stat(file.c_str(), &st) == 0 &&
      (st.st_mode & (S_ISUID | S_ISGID)) != 0) {
    return "runs as another user or group, so nothing can be preloaded into it";
  }
  UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 4> magic{};
  // What cannot be read cannot be judged: let it be tried.
  if (!fd || !read_at(fd.get(), 0, magic)) return std::nullopt;
  if (std::memcmp(magic.data(), ELFMAG, SELFMAG) == 0) return judge_elf(fd.get());
  if (magic[0] == '#' && magic[1] == '!') return judge_script(fd.get(), search_path);
  return std::nullopt;
}

}  // namespace sqlstream::tools
