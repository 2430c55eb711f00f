#include "shipper/source_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <new>

#include "base/error.h"
#include "base/fork.h"
#include "format/database_header.h"

namespace sqlstream {
namespace {

// Never destroyed; anew in a forked child, where who held it may not exist.
std::shared_mutex& mutex() {
  alignas(std::shared_mutex) static std::array<std::byte, sizeof(std::shared_mutex)> memory;
  static auto* const made = [] {
    call_in_child([] { new (memory.data()) std::shared_mutex(); });
    return new (memory.data()) std::shared_mutex();
  }();
  return *made;
}

// Opens or closes a file: SQLite holds mutexes of its own meanwhile, which a child would find
// locked.
void alone(const std::function<void()>& call) {
  const std::lock_guard lock(mutex());
  hold_off_forks(call);
}

}  // namespace

std::shared_lock<std::shared_mutex> hold_off_source_files() {
  return std::shared_lock(mutex());
}

SourceFile::SourceFile(const Host& host, const std::string& path)
    : host_(&host),
      path_(path),
      memory_(new std::uint8_t[static_cast<std::size_t>(host.base->szOsFile)]()) {
  file_ = reinterpret_cast<sqlite3_file*>(memory_.get());
  name_ = host.api->create_filename(path.c_str(), (path + "-journal").c_str(),
                                    (path + "-wal").c_str(), 0, nullptr);
  if (name_ == nullptr) throw Error("out of memory opening " + path);
  int rc = SQLITE_OK;
  alone([&] {
    int out_flags = 0;
    rc = host.base->xOpen(host.base, name_, file_, SQLITE_OPEN_READONLY | SQLITE_OPEN_MAIN_DB,
                          &out_flags);
    if (rc != SQLITE_OK && file_->pMethods != nullptr) file_->pMethods->xClose(file_);
  });
  if (rc != SQLITE_OK) {
    host.api->free_filename(name_);
    throw Error("cannot open the database " + path + " for reading: SQLite's error " +
                std::to_string(rc));
  }
}

SourceFile::SourceFile(sqlite3_file* file, const std::string& path) : path_(path), file_(file) {}

SourceFile::~SourceFile() {
  if (host_ == nullptr) return;
  if (file_->pMethods != nullptr) alone([&] { file_->pMethods->xClose(file_); });
  host_->api->free_filename(name_);
}

std::uint64_t SourceFile::size() const {
  sqlite3_int64 size = 0;
  if (file_->pMethods->xFileSize(file_, &size) != SQLITE_OK) {
    throw Error("cannot read the size of the database " + path_);
  }
  return static_cast<std::uint64_t>(size);
}

void SourceFile::read(std::uint64_t offset, std::span<std::uint8_t> out) const {
  const int rc = file_->pMethods->xRead(file_, out.data(), static_cast<int>(out.size()),
                                        static_cast<sqlite3_int64>(offset));
  // A short read fills the rest with zeros: so xRead's contract says.
  if (rc != SQLITE_OK && rc != SQLITE_IOERR_SHORT_READ) {
    throw Error("cannot read the database " + path_ + " at byte " + std::to_string(offset));
  }
}

namespace {

std::optional<DatabaseHeader> read_header(const SourceFile& file) {
  if (file.size() < DatabaseHeader::kSize) return std::nullopt;
  std::array<std::uint8_t, DatabaseHeader::kSize> bytes{};
  file.read(0, bytes);
  return decode_database_header(bytes);
}

}  // namespace

std::optional<capture::DatabaseShape> read_shape(const SourceFile& file) {
  const auto header = read_header(file);
  if (!header || header->page_size == 0) return std::nullopt;
  const auto in_file = static_cast<std::uint32_t>(file.size() / header->page_size);
  return capture::DatabaseShape{header->page_size,
                                header->pages == 0 ? in_file : std::min(header->pages, in_file),
                                header->wal_mode, header->pages};
}

bool has_reserved_bytes(const SourceFile& file) {
  const auto header = read_header(file);
  return header && header->reserved_bytes;
}

int turn_wal_on(const Host& host, const std::string& path, std::chrono::milliseconds patience) {
  const auto& api = *host.api;
  sqlite3* db = nullptr;
  int result = api.open_v2(path.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_PRIVATECACHE,
                           host.base->zName);
  if (result == SQLITE_OK) {
    int ignored = 0;
    api.db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, &ignored);
    api.wal_autocheckpoint(db, 0);
    api.busy_timeout(db, static_cast<int>(patience.count()));
    sqlite3_stmt* statement = nullptr;
    result = api.prepare_v2(db, "PRAGMA journal_mode=WAL", -1, &statement, nullptr);
    if (result == SQLITE_OK) result = api.step(statement);
    if (result == SQLITE_ROW) {
      const auto* mode = api.column_text(statement, 0);
      const bool is_wal =
          mode != nullptr && std::strcmp(reinterpret_cast<const char*>(mode), "wal") == 0;
      result = is_wal ? SQLITE_OK : SQLITE_ERROR;
    }
    api.finalize(statement);
  }
  // Not with forks held off: SQLite holds its own mutexes while an extension is made known, which
  // waits for those.
  const std::lock_guard lock(mutex());
  api.close(db);
  return result;
}

}  // namespace sqlstream
