#include "tools/source_pages.h"

#include <array>
#include <cstring>
#include <fcntl.h>

#include "base/bytes.h"
#include "base/error.h"
#include "format/wal.h"
#include "shipper/database.h"

namespace sqlstream::tools {
namespace {

// In the wal-index, behind both copies of its header: how many frames are in the file already.
constexpr std::size_t kBackfilledAt = 96;

const volatile void* wal_index_of(sqlite3* db) {
  sqlite3_file* file = nullptr;
  volatile void* region = nullptr;
  sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
  if (file == nullptr || file->pMethods == nullptr || file->pMethods->iVersion < 2 ||
      file->pMethods->xShmMap(file, 0, capture::kRegionSize, 0, &region) != SQLITE_OK) {
    return nullptr;
  }
  return region;
}

std::uint32_t backfilled(const volatile void* wal_index) {
  const auto* words = static_cast<const volatile std::uint32_t*>(wal_index);
  return words[kBackfilledAt / sizeof *words];
}

void read_wal(const UniqueFd& wal, std::uint64_t offset, std::span<std::uint8_t> out) {
  const ssize_t n = ::pread(wal.get(), out.data(), out.size(), static_cast<off_t>(offset));
  if (n != static_cast<ssize_t>(out.size())) throw Error("the WAL cannot be read");
}

std::uint64_t frame_offset(std::uint32_t frame, std::uint32_t page_size) {
  return wal::kHeaderSize + std::uint64_t{frame - 1} * (wal::kFrameHeaderSize + page_size);
}

}  // namespace

SourcePages::SourcePages(SqlConnection& db, const std::string& path) : db_(db), path_(path) {
  const volatile void* const wal_index = wal_index_of(db.get());
  if (wal_index == nullptr) throw Error("the database has no wal-index to read");
  // The header belongs to the transaction when it is the same before and after it began.
  constexpr int kTries = 1000;
  for (int i = 0; i < kTries; ++i) {
    const auto before = capture::read_wal_index_header(wal_index);
    db.run("BEGIN");
    count_ = static_cast<std::uint32_t>(std::stoul(db.value("PRAGMA page_count")));
    const auto after = capture::read_wal_index_header(wal_index);
    if (before && after && *before == *after) {
      header_ = *after;
      page_size_ = static_cast<std::uint32_t>(std::stoul(db.value("PRAGMA page_size")));
      file_.emplace(Database::find(path)->host(), path);
      // What is wholly in the file may be overwritten in the WAL.
      if (backfilled(wal_index) < header_.frames) index_wal();
      return;
    }
    db.run("ROLLBACK");
  }
  throw Error("the database is written all the time");
}

SourcePages::~SourcePages() {
  sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
}

void SourcePages::index_wal() {
  wal_ = UniqueFd(::open((path_ + "-wal").c_str(), O_RDONLY | O_CLOEXEC));
  std::array<std::uint8_t, wal::kFrameHeaderSize> bytes{};
  for (std::uint32_t frame = 1; frame <= header_.frames; ++frame) {
    read_wal(wal_, frame_offset(frame, page_size_), bytes);
    const auto decoded = wal::decode_frame_header(bytes);
    if (!capture::is_of_wal(decoded, header_)) throw Error("the WAL is not the one of its index");
    frames_[decoded.page] = frame;
  }
}

void SourcePages::read(std::uint32_t page, std::span<std::uint8_t> out) const {
  const auto frame = frames_.find(page);
  if (frame == frames_.end()) {
    file_->read(std::uint64_t{page - 1} * page_size_, out);
  } else {
    read_wal(wal_, frame_offset(frame->second, page_size_) + wal::kFrameHeaderSize, out);
  }
}

bool SourcePages::is_captured() const {
  const auto tail = Database::find(path_)->tail();
  if (!tail) return false;
  const auto& source = tail->last.source;
  if (tail->last.kind == capture::RecordKind::clean) return header_.frames == 0;
  return source.salt == header_.salt && source.frame == header_.frames;
}

}  // namespace sqlstream::tools
