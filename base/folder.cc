#include "base/folder.h"

#include <cerrno>
#include <dirent.h>
#include <memory>
#include <new>
#include <string_view>
#include <system_error>

namespace sqlstream {

std::vector<std::string> names_in(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), &::closedir);
  if (!open && errno == ENOMEM) throw std::bad_alloc();
  if (!open && errno != ENOENT && errno != ENOTDIR && errno != EACCES) {
    throw std::system_error(errno, std::generic_category(), "cannot list " + folder);
  }
  std::vector<std::string> names;
  while (open) {
    errno = 0;
    const dirent* entry = ::readdir(open.get());
    if (entry == nullptr && errno != 0) {
      throw std::system_error(errno, std::generic_category(), "cannot list " + folder);
    }
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  return names;
}

}  // namespace sqlstream
