#include "shipper/snapshot.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"

namespace sqlstream {
namespace {

[[noreturn]] void fail(const std::string& what, const std::string& file) {
  throw std::system_error(errno, std::generic_category(), what + ' ' + file);
}

void write_all(int fd, std::span<const std::uint8_t> data, std::uint64_t offset,
               const std::string& file) {
  while (!data.empty()) {
    const ssize_t n = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot write", file);
    data = data.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

// Exact only while nobody can change the database unseen. `seen`: by the last capture.
bool watched_or_closed(Database::Sight seen, Database& database, const capture::Tail& tail) {
  return (seen == Database::Sight::wal_index && database.has_mapping()) ||
         (tail.last.identity.inode != 0 &&
          capture::identify(database.path()) == tail.last.identity);
}

}  // namespace

SnapshotCopy::SnapshotCopy(Database& database, std::string file)
    : database_(database), file_(std::move(file)) {
  ::unlink(file_.c_str());
  const auto place = capture::OutboxPlace::of(database.path(), database.settings().outbox_dir);
  fd_ = UniqueFd(above_standard(::open(
      file_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, place.first_mode())));
  if (!fd_) fail("cannot create", file_);
  // Deleted at once: whatever ends this process, nothing stays.
  ::unlink(file_.c_str());
}

SnapshotCopy::~SnapshotCopy() = default;

bool SnapshotCopy::begin() {
  const auto seen = database_.see();
  if (seen == Database::Sight::none) return false;
  const auto tail = database_.tail();
  if (!tail || !database_.generation_alive() || !watched_or_closed(seen, database_, *tail)) {
    return false;
  }
  generation_ = tail->generation;
  first_ = tail->wal_first;
  source_ = std::make_unique<SourceFile>(database_.host(), database_.path());
  return true;
}

bool SnapshotCopy::copy_piece() {
  const std::uint64_t size = source_->size();
  if (offset_ >= size) return false;
  Bytes piece(std::min<std::uint64_t>(kPiece, size - offset_));
  source_->read(offset_, piece);
  write_all(fd_.get(), piece, offset_, file_);
  offset_ += piece.size();
  return true;
}

bool SnapshotCopy::end() {
  source_.reset();
  // A batch that a checkpoint put into the file must be known before the copy counts.
  const auto seen = database_.see();
  if (seen == Database::Sight::none) return false;
  const auto tail = database_.tail();
  if (!tail || tail->generation != generation_ || !database_.generation_alive() ||
      !watched_or_closed(seen, database_, *tail)) {
    return false;
  }
  at_ = tail->last;
  at_.chain = tail->batch_chain;
  return true;
}

void SnapshotCopy::apply() {
  const std::uint32_t page_size = at_.page_size;
  // Log files are read from their beginning; what is older than the first batch is passed over.
  const auto files = database_.log_files();
  const auto after = std::upper_bound(files.begin(), files.end(), first_);
  OutboxReader reader(database_.outbox_directory());
  if (after == files.begin() || !reader.seek(*(after - 1) - 1, files) ||
      reader.generation() != generation_) {
    throw Error("the outbox lost what a snapshot needs");
  }
  Bytes image(page_size);
  while (const auto entry = reader.next(at_.sequence)) {
    if (entry->found.record.sequence < first_) continue;
    const auto list = entry->file->read_pages(entry->found);
    for (std::size_t i = 0; i < list.size(); ++i) {
      entry->file->read_image(entry->found, i, list[i], image);
      write_all(fd_.get(), image, std::uint64_t{list[i].page - 1} * page_size, file_);
    }
    // Pages beyond it are gone; what a later growth does not write are zeros.
    resize(std::uint64_t{entry->found.record.database_size} * page_size);
  }
  resize(size());
  const std::uint64_t lock_page = std::uint64_t{wal::lock_byte_page(page_size) - 1} * page_size;
  if (lock_page + page_size <= size()) write_all(fd_.get(), Bytes(page_size), lock_page, file_);
  offset_ = 0;
}

void SnapshotCopy::resize(std::uint64_t bytes) {
  if (::ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0) fail("cannot truncate", file_);
}

bool SnapshotCopy::read_piece(Bytes& piece) {
  piece.resize(std::min<std::uint64_t>(kPiece, size() - offset_));
  std::size_t got = 0;
  while (got < piece.size()) {
    const ssize_t n = ::pread(fd_.get(), piece.data() + got, piece.size() - got,
                              static_cast<off_t>(offset_ + got));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("cannot read", file_);
    got += static_cast<std::size_t>(n);
  }
  offset_ += piece.size();
  return offset_ < size();
}

}  // namespace sqlstream
