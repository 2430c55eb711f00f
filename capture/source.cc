#include "capture/source.h"

#include <array>
#include <ctime>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/unique_fd.h"
#include "format/hex.h"

namespace sqlstream::capture {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::size_t kBootDigits = 8;            // of a random UUID
constexpr std::int64_t kRacyWindow = 10'000'000;  // over any kernel's timestamp granularity

std::int64_t nanoseconds(const timespec& t) {
  return t.tv_sec * kSecond + t.tv_nsec;
}

}  // namespace

std::optional<FileIdentity> identify(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return std::nullopt;
  return FileIdentity{st.st_dev, st.st_ino, static_cast<std::uint64_t>(st.st_size),
                      nanoseconds(st.st_mtim), nanoseconds(st.st_ctim)};
}

std::uint32_t file_tag(const std::string& path) {
  struct statx found {};
  if (::statx(AT_FDCWD, path.c_str(), 0, STATX_INO | STATX_BTIME, &found) != 0) return 0;
  // Without the device: its number may be another one after a start of the machine.
  std::array<std::uint64_t, 3> names{found.stx_ino};
  if ((found.stx_mask & STATX_BTIME) != 0) {
    names[1] = static_cast<std::uint64_t>(found.stx_btime.tv_sec);
    names[2] = found.stx_btime.tv_nsec;
  }
  return static_cast<std::uint32_t>(XXH3_64bits(names.data(), sizeof names)) | 1U;
}

std::uint32_t boot_id() {
  std::array<char, kBootDigits> digits{};
  const UniqueFd fd(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  if (!fd || ::read(fd.get(), digits.data(), digits.size()) != kBootDigits) return 0;
  const auto id = from_hex({digits.data(), digits.size()}, kBootDigits);
  return static_cast<std::uint32_t>(id.value_or(0));
}

std::optional<FileIdentity> stamp_identity(const std::string& path) {
  auto identity = identify(path);
  if (!identity) return identity;
  std::uint32_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != sizeof random) random = 271828;
  FileIdentity wanted = *identity;
  wanted.mtime -= 1 + random % 1'000'000;
  const timespec times[2] = {{0, UTIME_OMIT}, {wanted.mtime / kSecond, wanted.mtime % kSecond}};
  if (::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0) {
    // A write right after it, or a file system with coarser times, leaves another mtime.
    identity = identify(path);
    const bool taken = identity && identity->same_file(wanted) && identity->size == wanted.size &&
                       identity->mtime == wanted.mtime;
    return taken ? identity : std::nullopt;
  }
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const std::int64_t left = identity->ctime + kRacyWindow - nanoseconds(now);
  if (left > kRacyWindow) return std::nullopt;  // the clock was set back
  if (left > 0) {
    const timespec pause{0, left};
    ::nanosleep(&pause, nullptr);
  }
  return identify(path) == identity ? identity : std::nullopt;
}

}  // namespace sqlstream::capture
