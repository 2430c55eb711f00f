#include "capture/outbox_log.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <system_error>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "base/reserve_apart.h"
#include "base/signals.h"
#include "format/hex.h"

namespace sqlstream::capture {
namespace {

constexpr std::uint32_t kRecordMagic = 0x31424f53;       // "SOB1"
constexpr std::uint64_t kLogMagic = 0x32474f4c424f5153;  // "SQOBLOG2"
constexpr std::size_t kBufferSize = 1 << 20;
constexpr std::uint32_t kLargestPage = 65536;
constexpr std::size_t kNameDigits = 16;
constexpr std::string_view kNameEnd = ".log";

// On disk, as they lie in memory: the outbox never leaves its machine.
struct DiskRecord {
  std::uint32_t magic;
  std::uint16_t kind;
  std::uint16_t folded;
  std::uint64_t sequence;
  std::uint32_t page_count;
  std::uint32_t page_size;
  std::uint32_t database_size;
  std::uint32_t commits;
  std::int64_t first_commit;
  std::int64_t last_commit;
  SourcePosition source;
  SourcePosition previous;
  FileIdentity identity;
  std::uint64_t pages_hash;      // of the page list
  std::uint64_t previous_chain;  // a record that does not follow the one before it is not read
  std::uint64_t chain;
  std::uint64_t hash;  // of all above
};
static_assert(sizeof(SourcePosition) == 24 && sizeof(FileIdentity) == 40);
static_assert(sizeof(DiskRecord) == 168 && std::is_trivially_copyable_v<DiskRecord>);

struct DiskHeader {
  std::uint64_t magic;
  std::uint64_t generation;
  std::uint64_t generation_first;
  std::uint64_t first;
  std::uint64_t inode;
  std::uint64_t device;
  DiskRecord state;
  std::uint64_t batch_chain;
  std::uint64_t wal_first;
  std::uint64_t hash;
};
static_assert(sizeof(DiskHeader) <= LogFile::kHeaderSize &&
              std::is_trivially_copyable_v<DiskHeader>);

template <class Disk>
std::uint64_t hash_of(const Disk& disk) {
  return XXH3_64bits(&disk, offsetof(Disk, hash));
}

std::uint64_t chain_of(const DiskRecord& disk) {
  return XXH3_64bits_withSeed(&disk, offsetof(DiskRecord, chain), disk.previous_chain);
}

DiskRecord to_disk(const Record& record, std::uint64_t pages_hash, std::uint64_t previous_chain) {
  DiskRecord disk{};
  disk.magic = kRecordMagic;
  disk.kind = static_cast<std::uint16_t>(record.kind);
  disk.folded = record.folded ? 1 : 0;
  disk.sequence = record.sequence;
  disk.page_count = record.page_count;
  disk.page_size = record.page_size;
  disk.database_size = record.database_size;
  disk.commits = record.commits;
  disk.first_commit = record.first_commit;
  disk.last_commit = record.last_commit;
  disk.source = record.source;
  disk.previous = record.previous;
  disk.identity = record.identity;
  disk.pages_hash = pages_hash;
  disk.previous_chain = previous_chain;
  disk.chain = record.folded ? record.chain : chain_of(disk);
  disk.hash = hash_of(disk);
  return disk;
}

Record from_disk(const DiskRecord& disk) {
  Record record;
  record.kind = static_cast<RecordKind>(disk.kind);
  record.sequence = disk.sequence;
  record.page_count = disk.page_count;
  record.page_size = disk.page_size;
  record.database_size = disk.database_size;
  record.commits = disk.commits;
  record.first_commit = disk.first_commit;
  record.last_commit = disk.last_commit;
  record.source = disk.source;
  record.previous = disk.previous;
  record.identity = disk.identity;
  record.chain = disk.chain;
  record.folded = disk.folded != 0;
  return record;
}

std::vector<PageEntry> entries(std::size_t count) {
  std::vector<PageEntry> list;
  reserve_apart(list, count);
  list.resize(count);
  return list;
}

std::uint64_t list_size(std::uint64_t page_count) {
  return page_count * sizeof(PageEntry);
}

[[noreturn]] void fail(const char* what, const std::string& path) {
  throw std::system_error(errno, std::generic_category(), std::string(what) + ' ' + path);
}

// All bytes or an exception; false when the file ends before.
bool read_all(int fd, void* out, std::size_t size, std::uint64_t offset, const std::string& path) {
  auto* at = static_cast<std::uint8_t*>(out);
  while (size > 0) {
    const ssize_t n = ::pread(fd, at, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot read", path);
    if (n == 0) return false;
    at += n;
    offset += static_cast<std::uint64_t>(n);
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

void write_all(int fd, const void* data, std::size_t size, std::uint64_t offset,
               const std::string& path) {
  const auto* at = static_cast<const std::uint8_t*>(data);
  WriteSignalHeld too_large(SIGXFSZ);  // this may be the application's thread
  while (size > 0) {
    const ssize_t n = ::pwrite(fd, at, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EFBIG) too_large.take();
    if (n < 0) fail("cannot write", path);
    at += n;
    offset += static_cast<std::uint64_t>(n);
    size -= static_cast<std::size_t>(n);
  }
}

}  // namespace

std::uint32_t hash_page(ByteView image) {
  return static_cast<std::uint32_t>(XXH3_64bits(image.data(), image.size()));
}

std::string log_file_name(std::uint64_t first_sequence) {
  return to_hex(first_sequence, kNameDigits).append(kNameEnd);
}

std::optional<std::uint64_t> parse_log_file_name(std::string_view name) {
  if (!name.ends_with(kNameEnd)) return std::nullopt;
  name.remove_suffix(kNameEnd.size());
  return from_hex(name, kNameDigits);
}

LogFile LogFile::create(const std::string& path, const LogHeader& header, mode_t mode) {
  UniqueFd fd(above_standard(
      ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)));
  if (!fd) fail("cannot create", path);
  DiskHeader disk{};
  disk.magic = kLogMagic;
  disk.generation = header.generation.id;
  disk.generation_first = header.generation_first;
  disk.first = header.first;
  disk.inode = header.inode;
  disk.device = header.device;
  // `state` is no link of the chain itself: its own chain value is kept as it is.
  disk.state = to_disk(header.state, 0, 0);
  disk.state.chain = header.state.chain;
  disk.batch_chain = header.batch_chain;
  disk.wal_first = header.wal_first;
  disk.hash = hash_of(disk);
  std::array<std::uint8_t, kHeaderSize> block{};
  std::memcpy(block.data(), &disk, sizeof disk);
  try {
    write_all(fd.get(), block.data(), block.size(), 0, path);
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
  return {path, std::move(fd), header};
}

std::optional<LogFile> LogFile::open(const std::string& path, bool writable) {
  UniqueFd fd(above_standard(
      ::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW)));
  if (!fd) fail("cannot open", path);
  std::array<std::uint8_t, kHeaderSize> block{};
  if (!read_all(fd.get(), block.data(), block.size(), 0, path)) return std::nullopt;
  DiskHeader disk{};
  std::memcpy(&disk, block.data(), sizeof disk);
  if (disk.magic != kLogMagic || disk.hash != hash_of(disk)) return std::nullopt;
  LogHeader header;
  header.generation = {disk.generation};
  header.generation_first = disk.generation_first;
  header.first = disk.first;
  header.inode = disk.inode;
  header.device = disk.device;
  header.state = from_disk(disk.state);
  header.batch_chain = disk.batch_chain;
  header.wal_first = disk.wal_first;
  return LogFile(path, std::move(fd), header);
}

std::uint64_t LogFile::size() const {
  struct stat st {};
  if (::fstat(fd_.get(), &st) != 0) fail("cannot stat", path_);
  return static_cast<std::uint64_t>(st.st_size);
}

std::optional<LogFile::Found> LogFile::read(std::uint64_t offset, std::uint64_t previous_chain,
                                            bool check_images) const {
  DiskRecord disk{};
  if (!read_all(fd_.get(), &disk, sizeof disk, offset, path_)) return std::nullopt;
  if (disk.magic != kRecordMagic || disk.hash != hash_of(disk) ||
      (disk.folded == 0 && disk.chain != chain_of(disk)) || disk.previous_chain != previous_chain) {
    return std::nullopt;
  }
  // Before anything is made of these numbers: the file has what they count.
  const std::uint64_t rest = size() - offset - sizeof disk;
  const std::uint64_t list = list_size(disk.page_count);
  const std::uint64_t images = std::uint64_t{disk.page_count} * disk.page_size;
  if (disk.page_size > kLargestPage || list > rest || images > rest - list) return std::nullopt;
  Found found;
  found.record = from_disk(disk);
  found.offset = offset;
  found.images = offset + sizeof disk + list;
  found.end = found.images + images;
  const auto pages = read_pages(found);
  if (XXH3_64bits(pages.data(), list_size(pages.size())) != disk.pages_hash) return std::nullopt;
  if (check_images) {
    Bytes image(disk.page_size);
    for (std::size_t i = 0; i < pages.size(); ++i) {
      read_all(fd_.get(), image.data(), image.size(), found.images + i * disk.page_size, path_);
      if (hash_page(image) != pages[i].hash) return std::nullopt;
    }
  }
  return found;
}

std::vector<PageEntry> LogFile::read_pages(const Found& found) const {
  auto pages = entries(found.record.page_count);
  if (!read_all(fd_.get(), pages.data(), list_size(pages.size()), found.offset + sizeof(DiskRecord),
                path_)) {
    throw Error("the outbox file " + path_ + " ends inside a record");
  }
  return pages;
}

void LogFile::read_image(const Found& found, std::size_t index, const PageEntry& entry,
                         std::span<std::uint8_t> out) const {
  if (!read_all(fd_.get(), out.data(), out.size(), found.images + index * out.size(), path_) ||
      hash_page(out) != entry.hash) {
    throw Error("the outbox file " + path_ + " is damaged at page " + std::to_string(entry.page) +
                " of batch " + std::to_string(found.record.sequence));
  }
}

std::uint64_t LogFile::append(std::uint64_t offset, Record& record, std::uint64_t previous_chain,
                              const std::vector<std::uint32_t>& pages, const ImageSource& source) {
  record.page_count = static_cast<std::uint32_t>(pages.size());
  const std::size_t page_size = record.page_size;
  const std::uint64_t list_at = offset + sizeof(DiskRecord);
  const std::uint64_t images_at = list_at + list_size(pages.size());
  auto list = entries(pages.size());
  for (std::size_t i = 0; i < pages.size(); ++i) list[i].page = pages[i];

  const std::size_t head_size = images_at - offset;
  const bool in_one_write = head_size + pages.size() * page_size <= kBufferSize;
  const std::size_t step = page_size == 0 ? 0 : std::max<std::size_t>(1, kBufferSize / page_size);
  // The head's place is in the buffer too when all of it goes out in one write.
  Bytes buffer(in_one_write ? head_size + pages.size() * page_size : step * page_size);
  const auto seal = [&] {
    const DiskRecord disk =
        to_disk(record, XXH3_64bits(list.data(), list_size(list.size())), previous_chain);
    record.chain = disk.chain;
    return disk;
  };
  try {
    for (std::size_t first = 0; first < pages.size(); first += step) {
      const std::size_t count = std::min(step, pages.size() - first);
      const std::span<std::uint8_t> out(buffer.data() + (in_one_write ? head_size : 0),
                                        count * page_size);
      if (!source(first, count, out)) {
        truncate(offset);
        return 0;
      }
      for (std::size_t i = 0; i < count; ++i) {
        list[first + i].hash = hash_page(out.subspan(i * page_size, page_size));
      }
      if (!in_one_write) {
        write_all(fd_.get(), out.data(), out.size(), images_at + first * page_size, path_);
      }
    }
    if (in_one_write) {
      const DiskRecord disk = seal();
      std::memcpy(buffer.data(), &disk, sizeof disk);
      if (!list.empty())
        std::memcpy(buffer.data() + sizeof disk, list.data(), list_size(list.size()));
      write_all(fd_.get(), buffer.data(), buffer.size(), offset, path_);
    } else {
      const DiskRecord disk = seal();
      write_all(fd_.get(), list.data(), list_size(list.size()), list_at, path_);
      write_all(fd_.get(), &disk, sizeof disk, offset, path_);
    }
  } catch (...) {
    if (::ftruncate(fd_.get(), static_cast<off_t>(offset)) != 0) {
      // What is left is torn, and is cut when the file is next looked at.
    }
    throw;
  }
  return images_at + pages.size() * page_size;
}

void LogFile::truncate(std::uint64_t size) {
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) fail("cannot truncate", path_);
}

}  // namespace sqlstream::capture
