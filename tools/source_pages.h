#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include "base/unique_fd.h"
#include "capture/wal_index.h"
#include "shipper/source_file.h"
#include "tools/sql.h"

namespace sqlstream::tools {

/// The pages of a replicated database as one read transaction sees them, read from the file and the
/// WAL: memory for the WAL's page numbers only. Nothing is held back but checkpoints' last part, as
/// by any reader. Not thread-safe.
class SourcePages {
 public:
  /// Begins a read transaction on `db`, which open_replicated() opened on `path`, and which
  /// outlives the object. Throws Error.
  SourcePages(SqlConnection& db, const std::string& path);
  ~SourcePages();
  SourcePages(const SourcePages&) = delete;
  SourcePages& operator=(const SourcePages&) = delete;

  std::uint32_t page_size() const { return page_size_; }
  std::uint32_t count() const { return count_; }
  /// `page` from 1 to count(). Throws Error.
  void read(std::uint32_t page, std::span<std::uint8_t> out) const;

  /// True when the last record of the outbox, as this process knows it, is the state seen here.
  bool is_captured() const;

 private:
  void index_wal();

  SqlConnection& db_;
  std::string path_;
  capture::WalIndexHeader header_;
  std::uint32_t page_size_ = 0;
  std::uint32_t count_ = 0;
  std::optional<SourceFile> file_;
  UniqueFd wal_;
  std::map<std::uint32_t, std::uint32_t> frames_;  // the newest frame of each page in the WAL
};

}  // namespace sqlstream::tools
