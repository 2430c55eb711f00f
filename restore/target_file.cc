#include "restore/target_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <random>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

#include "base/folder.h"

namespace sqlstream {
namespace {

std::string error_text(int error) {
  return error == ENOSPC || error == EDQUOT ? "the disk is full"
         : error == EFBIG                   ? "the file would be larger than this process may write"
                                            : std::string(std::strerror(error));
}

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

bool exists(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0;
}

std::string random_suffix() {
  std::random_device source;
  char text[20];
  std::snprintf(text, sizeof text, "%08x%08x", source(), source());
  return text;
}

mode_t current_umask() {
  // umask() tells it by setting it, which other threads of the program would notice.
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    unsigned mask = 0;
    if (word == "Umask:" && status >> std::oct >> mask) return mask;
  }
  const mode_t mask = ::umask(077);
  ::umask(mask);
  return mask;
}

[[noreturn]] void fail(const std::string& output, const char* doing, int error) {
  throw OutputError("cannot restore to " + output + ": could not " + doing + ", " +
                    error_text(error));
}

void write_at(int fd, std::uint64_t offset, ByteView data, const std::string& output) {
  while (!data.empty()) {
    const auto n = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      fail(output, "write it", errno);
    }
    offset += static_cast<std::uint64_t>(n);
    data = data.subspan(static_cast<std::size_t>(n));
  }
}

enum class Claim { ours, others, impossible };

// A temporary file is locked while somebody writes it, so that one that was left behind by a
// process that was killed can be told from it.
Claim try_lock(const UniqueFd& fd) {
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_OFD_SETLK, &whole) == 0) return Claim::ours;
  return errno == EAGAIN || errno == EACCES ? Claim::others : Claim::impossible;
}

// False: between its creation and its lock it was taken for one that was left behind.
bool claim(const UniqueFd& fd) {
  struct stat st {};
  return try_lock(fd) != Claim::others && ::fstat(fd.get(), &st) == 0 && st.st_nlink > 0;
}

std::string temporary_prefix(const std::string& output) {
  return '.' + output.substr(output.rfind('/') + 1) + ".sqlstream-restore-";
}

void remove_abandoned(const std::string& folder, const std::string& prefix) {
  for (const std::string& name : names_in(folder)) {
    if (!name.starts_with(prefix)) continue;
    const std::string path = folder + '/' + name;
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (fd && try_lock(fd) == Claim::ours) ::unlink(path.c_str());
  }
}

}  // namespace

void refuse_existing_output(const std::string& output) {
  if (output.ends_with('/')) {
    throw Error("cannot restore to " + output +
                ": it names a folder, not a file; append the file's name");
  }
  if (exists(output)) {
    throw OutputExists("cannot restore, output path already exists: " + output +
                       "; move it away or choose another path with -o");
  }
  for (const char* suffix : {"-wal", "-shm", "-journal"}) {
    const std::string beside = output + suffix;
    if (!exists(beside)) continue;
    throw Error("cannot restore, " + beside +
                " exists and SQLite would mix it into the restored database: move it away first");
  }
}

FolderOf::FolderOf(const std::string& output) {
  for (std::string folder = folder_of(output); !exists(folder); folder = folder_of(folder)) {
    made_.push_back(folder);
  }
  std::error_code error;
  std::filesystem::create_directories(folder_of(output), error);
  if (error) fail(output, "create its folder", error.value());
}

FolderOf::~FolderOf() {
  for (const std::string& folder : made_) ::rmdir(folder.c_str());
}

TargetFile::TargetFile(std::string output, std::optional<mode_t> mode)
    : output_(std::move(output)), folder_(folder_of(output_)), mode_(mode) {
  refuse_existing_output(output_);
  const std::string prefix = temporary_prefix(output_);
  remove_abandoned(folder_, prefix);
  do {
    std::string path = folder_ + '/' + prefix + random_suffix();
    fd_ = UniqueFd(above_standard(
        ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)));
    if (!fd_) fail(output_, "create a file in its folder", errno);
    temporary_ = std::move(path);
  } while (!claim(fd_));
}

TargetFile::~TargetFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void TargetFile::write(std::uint64_t offset, ByteView data) {
  write_at(fd_.get(), offset, data, output_);
}

void TargetFile::set_size(std::uint64_t size) {
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) fail(output_, "set its size", errno);
}

void TargetFile::begin_writeback(std::uint64_t offset, std::uint64_t size) noexcept {
  ::sync_file_range(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(size),
                    SYNC_FILE_RANGE_WRITE);
}

ScratchFile TargetFile::scratch() const {
  const std::string path = temporary_ + ".frames";
  UniqueFd fd(above_standard(
      ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)));
  if (!fd) fail(output_, "create a second file in its folder", errno);
  ::unlink(path.c_str());
  return {std::move(fd), output_};
}

void ScratchFile::write(std::uint64_t offset, ByteView data) {
  write_at(fd_.get(), offset, data, output_);
}

void ScratchFile::read(std::uint64_t offset, std::span<std::uint8_t> data) const {
  while (!data.empty()) {
    const auto n = ::pread(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(output_, "read back what was written", n < 0 ? errno : EIO);
    offset += static_cast<std::uint64_t>(n);
    data = data.subspan(static_cast<std::size_t>(n));
  }
}

void ScratchFile::clear() {
  if (::ftruncate(fd_.get(), 0) != 0) fail(output_, "empty a temporary file", errno);
}

void TargetFile::publish() {
  struct stat folder {};
  UniqueFd folder_fd(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder_fd || ::fstat(folder_fd.get(), &folder) != 0) fail(output_, "open its folder", errno);
  if (::geteuid() == 0 && ::fchown(fd_.get(), folder.st_uid, folder.st_gid) != 0) {
    fail(output_, "give it to the owner of its folder", errno);
  }
  if (::fchmod(fd_.get(), mode_ ? *mode_ : 0644 & ~current_umask()) != 0)
    fail(output_, "set its mode", errno);
  if (::fsync(fd_.get()) != 0) fail(output_, "make it durable", errno);
  refuse_existing_output(output_);  // perhaps created meanwhile
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, output_.c_str(), RENAME_NOREPLACE) != 0) {
    if (errno == EEXIST) refuse_existing_output(output_);
    if (errno != EINVAL && errno != ENOSYS) fail(output_, "rename it into place", errno);
    // The file system cannot rename without replacing; a link does not replace either.
    if (::link(temporary_.c_str(), output_.c_str()) != 0) {
      if (errno == EEXIST) refuse_existing_output(output_);
      fail(output_, "link it into place", errno);
    }
    ::unlink(temporary_.c_str());
  }
  temporary_.clear();
  // Of one that was killed meanwhile: nobody restores to this path again for a long time.
  remove_abandoned(folder_, temporary_prefix(output_));
  if (::fsync(folder_fd.get()) != 0) fail(output_, "make its name durable", errno);
}

}  // namespace sqlstream
