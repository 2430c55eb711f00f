#include "capture/old_pages.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/signals.h"

namespace sqlstream::capture {
namespace {

constexpr std::uint64_t kMagic = 0x31474150444c4f53;  // "SOLDPAG1"
// Four places, each written by one call, each by others; then a byte for each page, and the
// images.
constexpr std::uint64_t kHeaderAt = 0;
constexpr std::uint64_t kAnnouncementAt = 512;
constexpr std::uint64_t kCopiedAt = 1024;
constexpr std::uint64_t kOutgrownAt = 1536;
constexpr std::uint64_t kMapAt = 4096;
constexpr std::uint64_t kAlignment = 65536;  // of the images

struct DiskHeader {
  std::uint64_t magic;
  std::uint64_t id;
  std::uint32_t page_size;
  std::uint32_t pages;
  std::uint64_t hash;
};

struct DiskAnnouncement {
  std::uint32_t salt[2];
  std::uint32_t frame;
  std::uint32_t open;
  std::uint64_t hash;
};

template <class Disk>
std::uint64_t hash_of(const Disk& disk) {
  return XXH3_64bits(&disk, offsetof(Disk, hash));
}

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// What lies in a hole, or beyond the end, is zeros.
void read_at(int fd, std::uint64_t offset, void* to, std::size_t size) {
  auto* out = static_cast<std::uint8_t*>(to);
  while (size > 0) {
    const ssize_t n = ::pread(fd, out, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot read the saved pages");
    if (n == 0) break;
    out += n;
    offset += static_cast<std::uint64_t>(n);
    size -= static_cast<std::size_t>(n);
  }
  std::memset(out, 0, size);
}

void write_at(int fd, std::uint64_t offset, const void* from, std::size_t size) {
  const auto* in = static_cast<const std::uint8_t*>(from);
  WriteSignalHeld too_large(SIGXFSZ);  // this may be the application's thread
  while (size > 0) {
    const ssize_t n = ::pwrite(fd, in, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EFBIG) too_large.take();
    if (n < 0) fail("cannot save a page");
    in += n;
    offset += static_cast<std::uint64_t>(n);
    size -= static_cast<std::size_t>(n);
  }
}

flock whole_file(short type) {
  flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

// Held while an announcement is open: the kernel's, so it goes with the process.
void set_lock(int fd, short type) {
  const flock lock = whole_file(type);
  if (::fcntl(fd, F_OFD_SETLK, &lock) != 0) fail("cannot lock the file for saved pages");
}

// By another descriptor.
bool is_locked(int fd) {
  flock lock = whole_file(F_WRLCK);
  return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

std::string path_in(const std::string& directory) {
  return directory + '/' + OldPages::kName;
}

// SQLite holds it inconsistent for some stores only, but its thread may have lost the processor.
std::optional<WalIndexHeader> settled_header(const volatile void* region0) {
  constexpr int kAttempts = 1000;
  for (int i = 0; i < kAttempts; ++i) {
    if (const auto header = read_wal_index_header(region0)) return header;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return std::nullopt;
}

// A reset gives the header its new salts before the progress, which is of the WAL before till then,
// and there is no frame yet.
CheckpointProgress progress_of(const WalIndexHeader& header, const volatile void* region0) {
  const CheckpointProgress progress = read_checkpoint_progress(region0);
  return {std::min(progress.done, header.frames), std::min(progress.begun, header.frames)};
}

// To be cut off within one checkpoint, on the application's thread.
constexpr std::uint64_t kLongestCut = 64ULL << 20;

}  // namespace

OldPages OldPages::create(const std::string& directory, mode_t mode, const Shape& shape,
                          const Announcement& known) {
  const std::string path = path_in(directory);
  ::unlink(path.c_str());
  UniqueFd fd(above_standard(
      ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)));
  if (!fd) fail("cannot create the file for saved pages");
  OldPages pages(std::move(fd), shape);
  try {
    const std::uint64_t end = pages.image_at(shape.pages) + shape.page_size;
    if (::ftruncate(pages.fd(), static_cast<off_t>(end)) != 0) {
      fail("cannot size the file for saved pages");
    }
    DiskHeader header{kMagic, shape.id, shape.page_size, shape.pages, 0};
    header.hash = hash_of(header);
    pages.set_copied(0);
    pages.announce(known);
    write_at(pages.fd(), kHeaderAt, &header, sizeof header);
  } catch (...) {
    remove(directory);
    throw;
  }
  return pages;
}

std::optional<OldPages> OldPages::open(const std::string& directory, std::uint64_t id) {
  UniqueFd fd(above_standard(
      ::open(path_in(directory).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)));
  if (!fd && errno == ENOENT) return std::nullopt;
  if (!fd) fail("cannot open the file for saved pages");
  DiskHeader header{};
  read_at(fd.get(), kHeaderAt, &header, sizeof header);
  if (header.magic != kMagic || header.hash != hash_of(header) || header.id != id) {
    return std::nullopt;
  }
  OldPages pages(std::move(fd), {header.id, header.page_size, header.pages});
  if (pages.outgrown()) return std::nullopt;
  return pages;
}

void OldPages::remove(const std::string& directory) noexcept {
  std::array<char, PATH_MAX> path{};
  const int length = std::snprintf(path.data(), path.size(), "%s/%s", directory.c_str(), kName);
  if (length > 0 && static_cast<std::size_t>(length) < path.size()) ::unlink(path.data());
}

bool OldPages::is_void() const noexcept {
  struct stat st {};
  if (::fstat(fd_.get(), &st) != 0 || st.st_nlink == 0) return true;
  try {
    // Looked at again, since it may have ended between.
    return outgrown() || (announced().open && !is_locked(fd_.get()) && announced().open);
  } catch (const std::exception&) {
    return true;
  }
}

std::uint64_t OldPages::bytes() const {
  constexpr std::uint64_t kBlock = 512;  // whatever the file system's
  struct stat st {};
  if (::fstat(fd_.get(), &st) != 0) fail("cannot look at the file for saved pages");
  return static_cast<std::uint64_t>(st.st_blocks) * kBlock;
}

void OldPages::outgrow(const std::string& directory) {
  constexpr std::uint8_t kYes = 1;
  write_at(fd_.get(), kOutgrownAt, &kYes, 1);
  remove(directory);
  if (::ftruncate(fd_.get(), kMapAt) != 0) fail("cannot empty the file for saved pages");
}

bool OldPages::outgrown() const {
  std::uint8_t yes = 0;
  read_at(fd_.get(), kOutgrownAt, &yes, 1);
  return yes != 0;
}

std::uint64_t OldPages::image_at(std::uint32_t page) const {
  const std::uint64_t images = (kMapAt + shape_.pages + kAlignment - 1) / kAlignment * kAlignment;
  return images + (std::uint64_t{page} - 1) * shape_.page_size;
}

void OldPages::set_copied(std::uint32_t page) {
  write_at(fd_.get(), kCopiedAt, &page, sizeof page);
}

void OldPages::discard(std::uint32_t first, std::uint32_t count) noexcept {
  ::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              static_cast<off_t>(image_at(first)), off_t{count} * shape_.page_size);
}

std::uint32_t OldPages::copied() const {
  std::uint32_t page = 0;
  read_at(fd_.get(), kCopiedAt, &page, sizeof page);
  return page;
}

std::vector<std::uint8_t> OldPages::saved(std::uint32_t first, std::uint32_t count) const {
  std::vector<std::uint8_t> map(count);
  read_at(fd_.get(), kMapAt + first - 1, map.data(), count);
  return map;
}

void OldPages::read(std::uint32_t page, std::span<std::uint8_t> out) const {
  read_at(fd_.get(), image_at(page), out.data(), out.size());
}

void OldPages::save(std::uint32_t page, std::span<const std::uint8_t> image) {
  constexpr std::uint8_t kSaved = 1;
  write_at(fd_.get(), image_at(page), image.data(), image.size());
  write_at(fd_.get(), kMapAt + page - 1, &kSaved, 1);
}

void OldPages::announce(const Announcement& announcement) {
  if (announcement.open) set_lock(fd_.get(), F_WRLCK);
  DiskAnnouncement disk{};
  disk.salt[0] = announcement.salt[0];
  disk.salt[1] = announcement.salt[1];
  disk.frame = announcement.frame;
  disk.open = announcement.open ? 1 : 0;
  disk.hash = hash_of(disk);
  write_at(fd_.get(), kAnnouncementAt, &disk, sizeof disk);
  if (!announcement.open) set_lock(fd_.get(), F_UNLCK);
}

Announcement OldPages::announced() const {
  // Read while it is written it may be neither of the two.
  for (int i = 0; i < 1000; ++i) {
    DiskAnnouncement disk{};
    read_at(fd_.get(), kAnnouncementAt, &disk, sizeof disk);
    if (disk.hash == hash_of(disk)) {
      return {{disk.salt[0], disk.salt[1]}, disk.frame, disk.open != 0};
    }
    std::this_thread::yield();
  }
  return {{}, 0, true};
}

void PageSaver::checkpoint_allowed(const volatile void* region0) noexcept {
  tried_.reset();
  const auto header = settled_header(region0);
  if (header) tried_ = {header->salt, progress_of(*header, region0).begun};
}

void PageSaver::begin(std::uint64_t id, std::uint64_t room, const volatile void* region0) noexcept {
  end(region0);
  if (id == 0) return;
  try {
    pages_ = OldPages::open(directory_, id);
    if (!pages_) return;
    const auto header = settled_header(region0);
    if (!header) return give_up("the wal-index cannot be read");
    const CheckpointProgress progress = progress_of(*header, region0);
    const Announcement known = pages_->announced();
    const std::uint32_t reached = known.reached(header->salt);
    if (known.open) return give_up("a checkpoint did not come to its end");
    if (!tried_ || std::max(progress.done, tried_->reached(header->salt)) > reached) {
      return give_up("somebody checkpointed without sqlstream");
    }
    target_ = progress.begun;
    mine_ = {header->salt, std::max(reached, target_), true};
    copied_ = 0;
    room_ = room;
    taken_ = pages_->bytes();
    pages_->announce(mine_);
  } catch (const std::exception& e) {
    give_up(e.what());
  }
}

void PageSaver::writing(std::uint64_t offset, std::size_t size, const ReadFile& read) noexcept {
  if (!pages_) return;
  const std::uint32_t page_size = pages_->shape().page_size;
  if (size != page_size || offset % page_size != 0) return give_up("not a page was written");
  try {
    save(static_cast<std::uint32_t>(offset / page_size + 1), read);
  } catch (const std::exception& e) {
    give_up(e.what());
  }
}

void PageSaver::truncating(std::uint64_t size, const ReadFile& read) noexcept {
  if (!pages_) return;
  const auto& shape = pages_->shape();
  const std::uint64_t whole = std::uint64_t{shape.pages} * shape.page_size;
  if (size >= whole) return;
  if (whole - size > kLongestCut) return give_up("much of the database is cut off");
  try {
    const auto first = static_cast<std::uint32_t>(size / shape.page_size + 1);
    for (std::uint32_t page = first; page <= shape.pages && pages_; ++page) save(page, read);
  } catch (const std::exception& e) {
    give_up(e.what());
  }
}

void PageSaver::save(std::uint32_t page, const ReadFile& read) {
  if (page > pages_->shape().pages || page <= copied_) return;
  copied_ = pages_->copied();
  if (page <= copied_ || pages_->saved(page, 1)[0] != 0) return;
  if (!has_room()) {
    pages_->outgrow(directory_);
    return give_up("the outbox reached outbox-max-size");
  }
  image_.resize(pages_->shape().page_size);
  if (!read((std::uint64_t{page} - 1) * image_.size(), image_)) {
    return give_up("the database cannot be read");
  }
  pages_->save(page, image_);
}

bool PageSaver::has_room() {
  const std::uint32_t page_size = pages_->shape().page_size;
  taken_ += page_size;
  if (taken_ > room_) taken_ = pages_->bytes() + page_size;
  return taken_ <= room_;
}

void PageSaver::end(const volatile void* region0) noexcept {
  if (!pages_) return;
  try {
    // A WAL that began anew was in the file as a whole. Others may reset it by now: then the header
    // has its new salts before the progress is that of the new one, so it is read behind that.
    const std::uint32_t done = read_checkpoint_progress(region0).done;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const auto header = settled_header(region0);
    const bool ended = header && (header->salt != mine_.salt || done >= target_);
    if (!ended) return give_up("a checkpoint did not come to its end");
    mine_.open = false;
    pages_->announce(mine_);
    pages_.reset();
  } catch (const std::exception& e) {
    give_up(e.what());
  }
}

void PageSaver::give_up(const char* why) noexcept {
  // Where that fails, an announcement stays open, or what is attempted was not announced.
  OldPages::remove(directory_);
  pages_.reset();
  try {
    log::info(std::string("a snapshot in the making is void: ") + why);
  } catch (...) {  // out of memory
  }
}

}  // namespace sqlstream::capture
