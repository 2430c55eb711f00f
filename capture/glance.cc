#include "capture/glance.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <system_error>

#include "base/error.h"
#include "capture/outbox_files.h"
#include "capture/wal_index.h"
#include "format/wal.h"

namespace sqlstream::capture {
namespace {

namespace fs = std::filesystem;

// Files come and go while one looks.
constexpr int kLooks = 5;

UniqueFd open_to_read(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  if (!fd && errno != ENOENT) {
    throw Error("cannot read " + path + ": " + std::generic_category().message(errno));
  }
  return fd;
}

bool is_locked(const std::string& lock_file, off_t byte) {
  const UniqueFd fd = open_to_read(lock_file);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return fd && ::fcntl(fd.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

void list_log(const std::string& directory, Glance& glance) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const auto first = parse_log_file_name(entry.path().filename().string());
    if (!first) continue;
    glance.log_files.push_back(*first);
    if (const auto file = identify(entry.path().string())) {
      glance.bytes += file->size;
      glance.written = std::max(glance.written, file->mtime);
    }
  }
  std::sort(glance.log_files.begin(), glance.log_files.end());
}

// Empty: it is gone, or torn.
std::optional<Tail> read_tail(const std::string& path) {
  if (::access(path.c_str(), F_OK) != 0) return std::nullopt;
  const auto log = LogFile::open(path, false);
  if (!log) return std::nullopt;
  const LogHeader& header = log->header();
  Tail tail;
  tail.generation = header.generation;
  tail.generation_first = header.generation_first;
  tail.device = header.device;
  tail.inode = header.inode;
  tail.last = header.state;
  tail.batch_chain = header.batch_chain;
  std::uint64_t offset = LogFile::kHeaderSize;
  while (const auto found = log->read(offset, tail.last.chain, false)) {
    tail.last = found->record;
    if (found->record.kind == RecordKind::batch) tail.batch_chain = found->record.chain;
    offset = found->end;
  }
  return tail;
}

Glance look(const std::string& directory) {
  Glance glance;
  list_log(directory, glance);
  glance.shipping = is_locked(directory + "/lock", kRoleByte);
  std::uint64_t current = glance.log_files.empty() ? 0 : glance.log_files.back();
  const UniqueFd control = open_to_read(directory + "/control");
  DiskControl disk{};
  if (control &&
      ::pread(control.get(), &disk, sizeof disk, kControlAt) >=
          static_cast<ssize_t>(kControlLeast) &&
      disk.magic == kControlMagic) {
    glance.left_wal = disk.left_wal;
    glance.full = disk.full != 0;
    current = disk.current_log;
    if (::pread(control.get(), &glance.behind, sizeof glance.behind, kBehindAt) !=
        sizeof glance.behind) {
      glance.behind = 0;
    }
  }
  if (current == 0) return glance;
  // What a process left that died while it began the next one.
  std::erase_if(glance.log_files, [&](std::uint64_t first) { return first > current; });
  glance.tail = read_tail(directory + '/' + log_file_name(current));
  if (!glance.tail) return glance;
  if (disk.boot == 0 || disk.boot != boot_id()) glance.tail->last.identity = {};
  Generation ended;
  glance.alive = !control ||
                 ::pread(control.get(), &ended.id, sizeof ended.id,
                         ended_place(glance.tail->generation)) != sizeof ended.id ||
                 ended != glance.tail->generation;
  return glance;
}

bool has_commit_behind(const UniqueFd& wal, const wal::Header& header, std::uint32_t frame,
                       wal::Checksum sum) {
  Bytes bytes(wal::kFrameHeaderSize + header.page_size);
  while (true) {
    const std::uint64_t offset = wal::kHeaderSize + std::uint64_t{frame} * bytes.size();
    const ssize_t n = ::pread(wal.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n != static_cast<ssize_t>(bytes.size())) return false;
    const ByteView all(bytes);
    const auto decoded = wal::decode_frame_header(all);
    sum = wal::frame_checksum(sum, all.first(wal::kFrameHeaderSize),
                              all.subspan(wal::kFrameHeaderSize), header.big_endian_checksums);
    if (decoded.salt != header.salt || decoded.sum != sum) return false;
    if (decoded.commit_size != 0) return true;
    ++frame;
  }
}

// Without frames in a WAL: whether the file is what was captured last, as far as can be shown.
bool is_whole_state(const Record& last, const std::string& database, bool wal_exists) {
  if (last.identity.inode != 0 && identify(database) == last.identity) return true;
  if (!wal_exists) return false;
  if (last.kind == RecordKind::reset) return true;
  // Emptied by somebody else: as long as the wal-index lives, its header tells.
  const UniqueFd index(::open((database + "-shm").c_str(), O_RDONLY | O_CLOEXEC));
  alignas(8) std::array<std::uint8_t, kRegionSize> region{};
  if (!index || ::pread(index.get(), region.data(), region.size(), 0) <= 0) return false;
  const auto header = read_wal_index_header(region.data());
  return header && header->frames == 0 && header->change == last.source.change &&
         header->sum == last.source.sum;
}

}  // namespace

std::optional<Glance> glance_at(const std::string& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) return std::nullopt;
  for (int i = 1;; ++i) {
    try {
      Glance glance = look(directory);
      if (glance.tail || glance.log_files.empty() || i == kLooks) return glance;
    } catch (const std::system_error& e) {
      if (i < kLooks) continue;
      throw Error("cannot read the outbox " + directory + ": " + e.code().message() +
                  (e.code() == std::errc::permission_denied
                       ? "; ask as the user whose programs write the database"
                       : ""));
    }
  }
}

bool has_more_than(const Tail& tail, const std::string& database) {
  const Record& last = tail.last;
  const UniqueFd wal(::open((database + "-wal").c_str(), O_RDONLY | O_CLOEXEC));
  Bytes bytes(wal::kHeaderSize);
  const bool there = wal && ::pread(wal.get(), bytes.data(), bytes.size(), 0) ==
                                static_cast<ssize_t>(bytes.size());
  const auto header = there ? wal::decode_header(bytes) : std::nullopt;
  if (!header) return !is_whole_state(last, database, static_cast<bool>(wal));
  for (const SourcePosition* place : {&last.source, &last.previous}) {
    if (place->salt != header->salt || place->frame == 0) continue;
    return has_commit_behind(wal, *header, place->frame, place->sum);
  }
  return has_commit_behind(wal, *header, 0, header->sum);
}

}  // namespace sqlstream::capture
