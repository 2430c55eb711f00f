#include "shipper/replica_note.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <type_traits>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/unique_fd.h"

namespace sqlstream {
namespace {

constexpr std::uint64_t kMagic = 0x39444e4552535153;  // "SQSREND9"

struct DiskNote {
  std::uint64_t magic;
  std::uint64_t has_end;
  ReplicaEnd end;
  std::uint64_t in_flight;
  std::int64_t commit_time;  // ns since 1970, like all times here
  std::int64_t snapshot_time;
  std::uint64_t snapshot_size;
  std::uint64_t bytes_since_snapshot;
  std::int64_t snapshot_tried;
  std::uint32_t unfolded;
  std::uint32_t others;
  std::int64_t retention_due;
  std::int64_t error_since;
  std::int32_t pid;
  std::int32_t sqlite;
  std::int64_t validated;
  std::int64_t verified;
  std::int64_t unverified_since;
  std::uint64_t boot;
  double puts_left;
  std::int64_t puts_at;
  std::array<char, 512> error;  // these end with a zero
  std::array<char, 512> unverified;
  std::array<char, 512> writer;
  std::uint64_t hash;
};
static_assert(std::is_trivially_copyable_v<DiskNote>);

std::int64_t ns(Time time) {
  return time.time_since_epoch().count();
}

Time to_time(std::int64_t ns) {
  return Time(std::chrono::nanoseconds(ns));
}

}  // namespace

std::uint64_t boot_hash() {
  static std::atomic<std::uint64_t> known{0};
  if (const std::uint64_t hash = known.load(); hash != 0) return hash;
  const UniqueFd fd(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  std::array<char, 64> id{};
  const ssize_t n = fd ? ::read(fd.get(), id.data(), id.size()) : 0;
  if (n <= 0) return 0;  // for want of a descriptor, perhaps
  known.store(XXH3_64bits(id.data(), static_cast<std::size_t>(n)));
  return known.load();
}

bool is_this_boot(std::uint64_t hash) {
  return hash != 0 && hash == boot_hash();
}

std::string replica_note_path(const std::string& outbox, const std::string& place) {
  std::array<char, 40> name{};
  std::snprintf(name.data(), name.size(), "/replica-%016llx",
                static_cast<unsigned long long>(XXH3_64bits(place.data(), place.size())));
  return outbox + name.data();
}

std::optional<ReplicaNote> load_replica_note(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return std::nullopt;
  alignas(DiskNote) std::array<std::uint8_t, sizeof(DiskNote)> bytes{};
  if (::pread(fd.get(), bytes.data(), bytes.size(), 0) != sizeof(DiskNote)) return std::nullopt;
  DiskNote disk;
  std::memcpy(static_cast<void*>(&disk), bytes.data(), sizeof disk);
  if (disk.magic != kMagic || disk.hash != XXH3_64bits(bytes.data(), offsetof(DiskNote, hash))) {
    return std::nullopt;
  }
  ReplicaNote note;
  if (disk.has_end != 0) note.end = disk.end;
  note.in_flight = disk.in_flight;
  note.commit_time = to_time(disk.commit_time);
  note.snapshot_time = to_time(disk.snapshot_time);
  note.unfolded = disk.unfolded;
  note.others = disk.others;
  note.snapshot_tried = to_time(disk.snapshot_tried);
  note.snapshot_size = disk.snapshot_size;
  note.bytes_since_snapshot = disk.bytes_since_snapshot;
  note.retention_due = to_time(disk.retention_due);
  note.error_since = to_time(disk.error_since);
  note.pid = disk.pid;
  note.sqlite = disk.sqlite;
  disk.error.back() = disk.unverified.back() = disk.writer.back() = '\0';
  note.validation = {to_time(disk.validated), to_time(disk.verified), disk.unverified.data(),
                     to_time(disk.unverified_since)};
  note.boot = disk.boot;
  note.budget = {disk.puts_left, to_time(disk.puts_at)};
  note.error = disk.error.data();
  note.writer = disk.writer.data();
  return note;
}

bool save_replica_note(const std::string& path, const std::string& database,
                       const ReplicaNote& note) {
  constexpr int kFlags = O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW;
  UniqueFd fd(above_standard(::open(path.c_str(), kFlags)));
  if (!fd) {
    const auto place = capture::OutboxPlace::of(database, "");
    fd = UniqueFd(
        above_standard(::open(path.c_str(), kFlags | O_CREAT | O_EXCL, place.first_mode())));
    if (!fd) return false;
    place.own(fd.get(), place.file_mode);
  }
  // Through bytes that were zero, so that padding hashes the same.
  alignas(DiskNote) std::array<std::uint8_t, sizeof(DiskNote)> bytes{};
  auto* disk = new (bytes.data()) DiskNote;
  disk->magic = kMagic;
  disk->has_end = note.end ? 1 : 0;
  if (note.end) disk->end = *note.end;
  disk->in_flight = note.in_flight;
  disk->commit_time = ns(note.commit_time);
  disk->snapshot_time = ns(note.snapshot_time);
  disk->unfolded = note.unfolded;
  disk->others = note.others;
  disk->snapshot_tried = ns(note.snapshot_tried);
  disk->snapshot_size = note.snapshot_size;
  disk->bytes_since_snapshot = note.bytes_since_snapshot;
  disk->retention_due = ns(note.retention_due);
  disk->error_since = ns(note.error_since);
  disk->pid = note.pid;
  disk->sqlite = note.sqlite;
  disk->validated = ns(note.validation.last);
  disk->verified = ns(note.validation.verified);
  disk->unverified_since = ns(note.validation.error_since);
  disk->error = disk->unverified = disk->writer = {};
  disk->boot = note.boot;
  disk->puts_left = note.budget.left;
  disk->puts_at = ns(note.budget.at);
  note.error.copy(disk->error.data(), disk->error.size() - 1);
  note.validation.error.copy(disk->unverified.data(), disk->unverified.size() - 1);
  note.writer.copy(disk->writer.data(), disk->writer.size() - 1);
  disk->hash = XXH3_64bits(bytes.data(), offsetof(DiskNote, hash));
  return ::pwrite(fd.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size());
}

}  // namespace sqlstream
