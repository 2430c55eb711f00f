// Faults for a program under test. Preloaded (LD_PRELOAD), it sees each call of the C library that
// changes a file below one folder, numbers it, and at one of them kills the process; or lets some
// calls fail; or writes a journal of all that reached the kernel. What is stored into a mapping
// (SQLite's -shm) cannot be seen: the locks around it are, and are numbered too.
//
//   FAULTS_UNDER=FOLDER     only files below it count; absolute, without symbolic links
//   FAULTS_COUNT=FILE       8 bytes: how many calls there were so far, over all processes
//   FAULTS_LOG=FILE         a line "number call path" for each
//   FAULTS_KILL=N           SIGKILL before call N is made
//   FAULTS_HALF=1           … instead after it, and where it is a write, after half of its bytes
//   FAULTS_NO_SYNC=1        fsync and fdatasync return at once: only the machine's end needs them
//   FAULTS_JOURNAL=FILE     each change with its bytes, in order, of all processes (see Entry)
//   FAULTS_ERRORS=FILE      lines "ERRNO CALL PREFIX [NOT]": such calls on paths that begin with
//                           PREFIX fail, but not those that begin with NOT; CALL * is any of them;
//                           read anew at each call, so that faults come and go. ERRNO WAIT: they
//                           are held instead, until the line is gone
//   FAULTS_CLOCK=FILE       8 bytes: ns that are added to CLOCK_REALTIME
//   FAULTS_STEADY=FILE      8 bytes: ns that are added to CLOCK_MONOTONIC; epoll_wait and waits for
//                           a condition look at it every few ms
//   FAULTS_IDENTITY="DEV INODE MTIME CTIME PATH"   what stat says of PATH: the inode always, the
//                           times until the file is changed
//   FAULTS_BOOT_ID=FILE     read instead of the kernel's, which names the time since the last start
//   FAULTS_HOST=NAME        what gethostname says
//
// Made with system calls, not with the functions it stands in for. Thread-safe.

// Both names of each function are defined here, the one with 64 and the one without.
#undef _FILE_OFFSET_BITS

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <fcntl.h>
#include <fstream>
#include <mutex>
#include <pthread.h>
#include <sstream>
#include <string>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr int kLookMs = 5;  // at a steady clock that jumps

const char* setting(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

template <class... Args>
long call(long number, Args... args) {
  return ::syscall(number, args...);
}

int stat_at(int folder, const char* path, struct stat* out, int flags) {
  return static_cast<int>(call(SYS_newfstatat, folder, path, out, flags));
}

std::int64_t ns(const timespec& time) {
  return time.tv_sec * kSecond + time.tv_nsec;
}

timespec to_timespec(std::int64_t time) {
  return {time / kSecond, time % kSecond};
}

/// One change in the journal; then `path_size` bytes of path, `other_size` of the second path (of a
/// rename or link), and for a write its bytes. What stat says of the file afterwards.
struct Entry {
  char kind[8];
  std::uint32_t path_size;
  std::uint32_t other_size;
  std::uint64_t offset;  // of a write or a hole; of a truncation the new size
  std::uint64_t size;    // of a write or a hole: bytes
  std::uint64_t device;
  std::uint64_t inode;
  std::int64_t mtime;
  std::int64_t ctime;
};

/// Shared with the test and with other processes; kept in memory where there is no file.
class Shared {
 public:
  explicit Shared(const char* path) {
    if (*path == 0) return;
    const auto fd = static_cast<int>(call(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT, 0600));
    if (fd < 0 || call(SYS_ftruncate, fd, sizeof *value_) != 0) std::abort();
    void* mapped = ::mmap(nullptr, sizeof *value_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) std::abort();
    value_ = static_cast<std::atomic<std::int64_t>*>(mapped);
    ::close(fd);
  }
  std::atomic<std::int64_t>& operator*() const { return *value_; }

 private:
  std::atomic<std::int64_t> own_{0};
  std::atomic<std::int64_t>* value_ = &own_;
};

/// A file that is only appended to.
class Appended {
 public:
  explicit Appended(const char* path) {
    if (*path == 0) return;
    fd_ = static_cast<int>(
        call(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (fd_ < 0) std::abort();
  }
  bool wanted() const { return fd_ >= 0; }
  /// Excludes other processes.
  void lock(bool on) const { call(SYS_flock, fd_, on ? LOCK_EX : LOCK_UN); }
  void append(const std::string& bytes) const {
    if (call(SYS_write, fd_, bytes.data(), bytes.size()) != static_cast<long>(bytes.size())) {
      std::abort();
    }
  }

 private:
  int fd_ = -1;
};

/// What FAULTS_IDENTITY says.
struct Identity {
  std::string path;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t mtime = 0;
  std::int64_t ctime = 0;
  std::uint64_t real_inode = 0;
  std::int64_t real_ctime = 0;

  explicit Identity(const char* text) {
    if (*text == 0) return;
    std::istringstream in(text);
    in >> device >> inode >> mtime >> ctime >> path;
    struct stat now {};
    if (!in || stat_at(AT_FDCWD, path.c_str(), &now, 0) != 0) std::abort();
    real_inode = now.st_ino;
    real_ctime = ns(now.st_ctim);
  }

  void apply(struct stat& of) const {
    if (real_inode == 0 || of.st_ino != real_inode) return;
    of.st_dev = device;
    of.st_ino = inode;
    if (ns(of.st_ctim) != real_ctime) return;
    of.st_mtim = to_timespec(mtime);
    of.st_ctim = to_timespec(ctime);
  }
};

struct State {
  std::string under = setting("FAULTS_UNDER");
  Shared count{setting("FAULTS_COUNT")};
  Appended log{setting("FAULTS_LOG")};
  std::int64_t kill_at = std::atoll(setting("FAULTS_KILL"));
  bool half = *setting("FAULTS_HALF") != 0;
  bool no_sync = *setting("FAULTS_NO_SYNC") != 0;
  Appended journal{setting("FAULTS_JOURNAL")};
  std::string errors = setting("FAULTS_ERRORS");
  Shared clock{setting("FAULTS_CLOCK")};
  Shared steady{setting("FAULTS_STEADY")};
  bool jumps = *setting("FAULTS_STEADY") != 0;
  Identity identity{setting("FAULTS_IDENTITY")};
  std::mutex one_at_a_time;  // so that the journal has the order in which the kernel did it
};

// Never destroyed: threads of the program outlive static objects.
State& state() {
  static auto* const made = new State();
  return *made;
}

[[noreturn]] void die() {
  call(SYS_kill, ::getpid(), SIGKILL);
  for (;;) ::pause();
}

std::string path_of(int fd) {
  char link[64];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  char path[PATH_MAX];
  const long size = call(SYS_readlinkat, AT_FDCWD, link, path, sizeof path);
  return size > 0 ? std::string(path, static_cast<std::size_t>(size)) : std::string();
}

std::string path_at(int folder, const char* path) {
  if (path[0] == '/') return path;
  if (folder != AT_FDCWD) return path_of(folder) + '/' + path;
  char here[PATH_MAX];
  return ::getcwd(here, sizeof here) != nullptr ? std::string(here) + '/' + path : path;
}

bool counts(const std::string& path) {
  return !state().under.empty() && path.starts_with(state().under);
}

constexpr int kWait = -1;

int number_of_error(const std::string& name) {
  if (name == "WAIT") return kWait;
  for (int number = 1; number < 134; ++number) {
    const char* known = ::strerrorname_np(number);
    if (known != nullptr && name == known) return number;
  }
  std::abort();
}

// What the first line for such a call says; 0: there is none.
int listed_error(const char* what, const std::string& path) {
  std::ifstream file(state().errors);
  for (std::string line; std::getline(file, line);) {
    std::istringstream in(line);
    std::string error;
    std::string name;
    std::string prefix;
    std::string excepted;
    in >> error >> name >> prefix >> excepted;
    if ((name == "*" || name == what) && path.starts_with(prefix) &&
        (excepted.empty() || !path.starts_with(excepted))) {
      return number_of_error(error);
    }
  }
  return 0;
}

// 0, or the error that this call is to fail with.
int wanted_error(const char* what, const std::string& path) {
  if (state().errors.empty()) return 0;
  int error = listed_error(what, path);
  for (; error == kWait; error = listed_error(what, path)) ::usleep(1000);
  return error;
}

// Of a call that changes nothing; errno is set then.
bool fails(const char* what, int fd) {
  if (state().errors.empty()) return false;
  const std::string path = path_of(fd);
  const int error = counts(path) ? wanted_error(what, path) : 0;
  if (error != 0) errno = error;
  return error != 0;
}

void note(const char* kind, const std::string& path, const std::string& other, std::uint64_t offset,
          const void* data, std::uint64_t size) {
  Entry entry{};
  std::memcpy(entry.kind, kind, std::min(sizeof entry.kind, std::strlen(kind)));
  entry.path_size = static_cast<std::uint32_t>(path.size());
  entry.other_size = static_cast<std::uint32_t>(other.size());
  entry.offset = offset;
  entry.size = size;
  struct stat now {};
  if (stat_at(AT_FDCWD, path.c_str(), &now, 0) == 0) {
    entry.device = now.st_dev;
    entry.inode = now.st_ino;
    entry.mtime = ns(now.st_mtim);
    entry.ctime = ns(now.st_ctim);
  }
  std::string bytes(reinterpret_cast<const char*>(&entry), sizeof entry);
  bytes += path + other;
  if (data != nullptr) bytes.append(static_cast<const char*>(data), size);
  state().journal.append(bytes);
}

/// A call that changes a file: made by `make`, which is given whether to do half of it only.
template <class Make>
long change(const char* what, const std::string& path, const std::string& other,
            std::uint64_t offset, const void* data, std::uint64_t size, Make&& make) {
  State& all = state();
  if (const int error = wanted_error(what, path)) {
    errno = error;
    return -1;
  }
  const std::int64_t number = (*all.count).fetch_add(1) + 1;
  if (all.log.wanted()) {
    all.log.append(std::to_string(number) + ' ' + what + ' ' + path + '\n');
  }
  if (number == all.kill_at) {
    if (all.half) make(true);
    die();
  }
  if (!all.journal.wanted()) return make(false);
  const std::lock_guard lock(all.one_at_a_time);
  all.journal.lock(true);
  const long result = make(false);
  const int error = errno;
  if (result >= 0) {
    note(what, path, other, offset, data,
         data != nullptr ? static_cast<std::uint64_t>(result) : size);
  }
  all.journal.lock(false);
  errno = error;
  return result;
}

template <class Make>
long change(const char* what, const std::string& path, Make&& make) {
  return change(what, path, {}, 0, nullptr, 0, [&](bool) { return make(); });
}

int open_at(int folder, const char* name, int flags, mode_t mode) {
  if (const char* other = setting("FAULTS_BOOT_ID");
      *other != 0 && std::strcmp(name, "/proc/sys/kernel/random/boot_id") == 0) {
    name = other;
  }
  const auto make = [&] { return call(SYS_openat, folder, name, flags, mode); };
  const std::string path = path_at(folder, name);
  if (!counts(path)) return static_cast<int>(make());
  if (const int error = wanted_error("open", path)) {
    errno = error;
    return -1;
  }
  struct stat now {};
  const bool creates =
      (flags & O_CREAT) != 0 && stat_at(AT_FDCWD, path.c_str(), &now, AT_SYMLINK_NOFOLLOW) != 0;
  const bool changes = creates || ((flags & O_TRUNC) != 0 && (flags & O_ACCMODE) != O_RDONLY);
  return static_cast<int>(changes ? change("create", path, make) : make());
}

ssize_t write_at(int fd, const void* data, std::size_t size, off_t offset, bool positioned) {
  const auto make = [&](bool half) {
    const std::size_t wanted = half ? size / 2 : size;
    return positioned ? call(SYS_pwrite64, fd, data, wanted, offset)
                      : call(SYS_write, fd, data, wanted);
  };
  const std::string path = path_of(fd);
  if (!counts(path)) return make(false);
  if (!positioned) {
    struct stat now {};
    if (stat_at(fd, "", &now, AT_EMPTY_PATH) != 0 || !S_ISREG(now.st_mode)) return make(false);
    offset = call(SYS_lseek, fd, 0, SEEK_CUR);
  }
  return change("write", path, {}, static_cast<std::uint64_t>(offset), data, size, make);
}

int truncate_fd(int fd, off_t size) {
  const auto make = [&](bool) { return call(SYS_ftruncate, fd, size); };
  const std::string path = path_of(fd);
  if (!counts(path)) return static_cast<int>(make(false));
  return static_cast<int>(
      change("truncate", path, {}, static_cast<std::uint64_t>(size), nullptr, 0, make));
}

int unlink_at(int folder, const char* name, int flags) {
  const auto make = [&] { return call(SYS_unlinkat, folder, name, flags); };
  const std::string path = path_at(folder, name);
  return static_cast<int>(counts(path) ? change("unlink", path, make) : make());
}

int punch(int fd, int mode, off_t offset, off_t size) {
  const auto make = [&](bool) { return call(SYS_fallocate, fd, mode, offset, size); };
  const std::string path = path_of(fd);
  if (!counts(path)) return static_cast<int>(make(false));
  return static_cast<int>(change("punch", path, {}, static_cast<std::uint64_t>(offset), nullptr,
                                 static_cast<std::uint64_t>(size), make));
}

int rename_at(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
  const auto make = [&](bool) {
    return call(SYS_renameat2, from_folder, from, to_folder, to, flags);
  };
  const std::string path = path_at(from_folder, from);
  if (!counts(path)) return static_cast<int>(make(false));
  return static_cast<int>(change("rename", path, path_at(to_folder, to), 0, nullptr, 0, make));
}

int sync_fd(int fd, long number) {
  const std::string path = path_of(fd);
  if (!counts(path)) return static_cast<int>(call(number, fd));
  return static_cast<int>(change("sync", path, [&]() -> long {
    return state().no_sync || state().journal.wanted() ? 0 : call(number, fd);
  }));
}

int stat_like(int folder, const char* name, struct stat* out, int flags) {
  const int result = stat_at(folder, name, out, flags);
  if (result == 0) state().identity.apply(*out);
  return result;
}

mode_t mode_of(int flags, va_list args) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(args, mode_t) : 0;
}

}  // namespace

// What the programs call; the names with 64 are the same on 64-bit machines.

EXPORTED int open(const char* path, int flags, ...) {
  va_list args;
  va_start(args, flags);
  const mode_t mode = mode_of(flags, args);
  va_end(args);
  return open_at(AT_FDCWD, path, flags, mode);
}

EXPORTED int open64(const char* path, int flags, ...) {
  va_list args;
  va_start(args, flags);
  const mode_t mode = mode_of(flags, args);
  va_end(args);
  return open_at(AT_FDCWD, path, flags, mode);
}

EXPORTED ssize_t write(int fd, const void* data, std::size_t size) {
  return write_at(fd, data, size, 0, false);
}

EXPORTED ssize_t pwrite(int fd, const void* data, std::size_t size, off_t offset) {
  return write_at(fd, data, size, offset, true);
}

EXPORTED ssize_t pwrite64(int fd, const void* data, std::size_t size, off_t offset) {
  return write_at(fd, data, size, offset, true);
}

EXPORTED ssize_t pread64(int fd, void* data, std::size_t size, off_t offset) {
  return fails("read", fd) ? -1 : call(SYS_pread64, fd, data, size, offset);
}

EXPORTED ssize_t preadv64(int fd, const iovec* parts, int count, off_t offset) {
  // 0: the upper half of the offset, where a word has 32 bits.
  return fails("read", fd) ? -1 : call(SYS_preadv, fd, parts, count, offset, 0);
}

// Of a file; SQLite's -shm is.
EXPORTED void* mmap64(void* at, std::size_t size, int protection, int flags, int fd,
                      off_t offset) noexcept {
  if (fd >= 0 && fails("map", fd)) return MAP_FAILED;
  return ::mmap(at, size, protection, flags, fd, offset);
}

EXPORTED int ftruncate(int fd, off_t size) noexcept {
  return truncate_fd(fd, size);
}

EXPORTED int ftruncate64(int fd, off_t size) noexcept {
  return truncate_fd(fd, size);
}

EXPORTED int fallocate64(int fd, int mode, off_t offset, off_t size) {
  return punch(fd, mode, offset, size);
}

EXPORTED int unlink(const char* path) noexcept {
  return unlink_at(AT_FDCWD, path, 0);
}

EXPORTED int unlinkat(int folder, const char* path, int flags) noexcept {
  return unlink_at(folder, path, flags);
}

EXPORTED int rmdir(const char* name) noexcept {
  const auto make = [&] { return call(SYS_unlinkat, AT_FDCWD, name, AT_REMOVEDIR); };
  const std::string path = path_at(AT_FDCWD, name);
  return static_cast<int>(counts(path) ? change("rmdir", path, make) : make());
}

EXPORTED int rename(const char* from, const char* to) noexcept {
  return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORTED int renameat2(int from_folder, const char* from, int to_folder, const char* to,
                       unsigned flags) noexcept {
  return rename_at(from_folder, from, to_folder, to, flags);
}

EXPORTED int link(const char* from, const char* to) noexcept {
  const auto make = [&](bool) { return call(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0); };
  const std::string path = path_at(AT_FDCWD, from);
  if (!counts(path)) return static_cast<int>(make(false));
  return static_cast<int>(change("link", path, path_at(AT_FDCWD, to), 0, nullptr, 0, make));
}

EXPORTED int mkdir(const char* name, mode_t mode) noexcept {
  const auto make = [&] { return call(SYS_mkdirat, AT_FDCWD, name, mode); };
  const std::string path = path_at(AT_FDCWD, name);
  return static_cast<int>(counts(path) ? change("mkdir", path, make) : make());
}

EXPORTED int mkfifo(const char* name, mode_t mode) noexcept {
  const auto make = [&] { return call(SYS_mknodat, AT_FDCWD, name, mode | S_IFIFO, 0); };
  const std::string path = path_at(AT_FDCWD, name);
  return static_cast<int>(counts(path) ? change("mkfifo", path, make) : make());
}

EXPORTED int chmod(const char* name, mode_t mode) noexcept {
  const auto make = [&] { return call(SYS_fchmodat, AT_FDCWD, name, mode); };
  const std::string path = path_at(AT_FDCWD, name);
  return static_cast<int>(counts(path) ? change("mode", path, make) : make());
}

EXPORTED int fchmod(int fd, mode_t mode) noexcept {
  const auto make = [&] { return call(SYS_fchmod, fd, mode); };
  const std::string path = path_of(fd);
  return static_cast<int>(counts(path) ? change("mode", path, make) : make());
}

EXPORTED int fchown(int fd, uid_t owner, gid_t group) noexcept {
  const auto make = [&] { return call(SYS_fchown, fd, owner, group); };
  const std::string path = path_of(fd);
  return static_cast<int>(counts(path) ? change("owner", path, make) : make());
}

EXPORTED int fsync(int fd) {
  return sync_fd(fd, SYS_fsync);
}

EXPORTED int fdatasync(int fd) {
  return sync_fd(fd, SYS_fdatasync);
}

EXPORTED int utimensat(int folder, const char* name, const timespec times[2], int flags) noexcept {
  const auto make = [&] { return call(SYS_utimensat, folder, name, times, flags); };
  const std::string path = path_at(folder, name);
  return static_cast<int>(counts(path) ? change("times", path, make) : make());
}

EXPORTED int futimens(int fd, const timespec times[2]) noexcept {
  const auto make = [&] { return call(SYS_utimensat, fd, nullptr, times, 0); };
  const std::string path = path_of(fd);
  return static_cast<int>(counts(path) ? change("times", path, make) : make());
}

EXPORTED int fcntl64(int fd, int command, ...) {
  va_list args;
  va_start(args, command);
  void* argument = va_arg(args, void*);
  va_end(args);
  const auto make = [&] { return call(SYS_fcntl, fd, command, argument); };
  const bool locks = command == F_SETLK || command == F_OFD_SETLK;
  const std::string path = locks ? path_of(fd) : std::string();
  return static_cast<int>(counts(path) ? change("lock", path, make) : make());
}

EXPORTED int stat64(const char* path, struct stat64* out) noexcept {
  return stat_like(AT_FDCWD, path, reinterpret_cast<struct stat*>(out), 0);
}

EXPORTED int lstat64(const char* path, struct stat64* out) noexcept {
  return stat_like(AT_FDCWD, path, reinterpret_cast<struct stat*>(out), AT_SYMLINK_NOFOLLOW);
}

EXPORTED int fstat64(int fd, struct stat64* out) noexcept {
  return stat_like(fd, "", reinterpret_cast<struct stat*>(out), AT_EMPTY_PATH);
}

EXPORTED int gethostname(char* name, std::size_t size) noexcept {
  static const auto real = reinterpret_cast<decltype(&gethostname)>(::dlsym(RTLD_NEXT, __func__));
  const std::string_view other = setting("FAULTS_HOST");
  if (other.empty()) return real(name, size);
  name[other.copy(name, size - 1)] = 0;
  return 0;
}

EXPORTED int clock_gettime(clockid_t clock, timespec* out) noexcept {
  const auto result = static_cast<int>(call(SYS_clock_gettime, clock, out));
  if (result != 0) return result;
  if (clock == CLOCK_REALTIME) *out = to_timespec(ns(*out) + (*state().clock).load());
  if (clock == CLOCK_MONOTONIC) *out = to_timespec(ns(*out) + (*state().steady).load());
  return 0;
}

// The kernel's timers know nothing of the jumps. Without them Boost.Asio looks at the clock after
// each epoll_wait.
EXPORTED int timerfd_create(int clock, int flags) noexcept {
  if (!state().jumps) return static_cast<int>(call(SYS_timerfd_create, clock, flags));
  errno = ENOSYS;
  return -1;
}

EXPORTED int epoll_wait(int fd, epoll_event* events, int room, int limit) {
  if (state().jumps && (limit < 0 || limit > kLookMs)) limit = kLookMs;
  return static_cast<int>(call(SYS_epoll_wait, fd, events, room, limit));
}

EXPORTED int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                    clockid_t clock, const timespec* until) {
  static const auto real =
      reinterpret_cast<decltype(&pthread_cond_clockwait)>(::dlsym(RTLD_NEXT, __func__));
  if (!state().jumps || clock != CLOCK_MONOTONIC) return real(condition, mutex, clock, until);
  timespec now{};
  call(SYS_clock_gettime, clock, &now);
  const std::int64_t deadline = ns(*until) - (*state().steady).load();
  const std::int64_t soon = ns(now) + kLookMs * kSecond / 1000;
  const timespec look = to_timespec(std::min(deadline, soon));
  const int result = real(condition, mutex, clock, &look);
  return result == ETIMEDOUT && soon < deadline ? 0 : result;  // 0: as if it had been woken
}
