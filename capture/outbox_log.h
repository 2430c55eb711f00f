#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "capture/source.h"
#include "format/position.h"

/// The append-only files of the outbox: "<first sequence, %016x>.log", each a header and records.
/// The bytes, and nothing of who may append when (see outbox.h for the lock). Little-endian; local
/// to one machine. doc/internals.md describes the layout.
namespace sqlstream::capture {

enum class RecordKind : std::uint16_t {
  batch = 1,  ///< pages of committed frames; has a sequence number of its own
  reset = 2,  ///< the WAL begins again at `source`; if that is undone, `previous` holds
  clean = 3,  ///< no WAL was left: the database file, as `identity` says, is the whole state
};

/// A record without its pages, and what is known after it.
struct Record {
  RecordKind kind = RecordKind::batch;
  std::uint64_t sequence = 0;  ///< of this batch, else of the last batch before
  std::uint32_t page_count = 0;
  std::uint32_t page_size = 0;
  std::uint32_t database_size = 0;  ///< pages
  std::uint32_t commits = 0;
  std::int64_t first_commit = 0;  ///< ns since 1970, UTC
  std::int64_t last_commit = 0;
  SourcePosition source;
  SourcePosition previous;
  FileIdentity identity;
  std::uint64_t chain = 0;  ///< hash over everything captured in this generation up to here
  /// A batch that stands for all batches since the one before it, the last of which had `sequence`
  /// and `chain`.
  bool folded = false;
};

/// What the first bytes of a log file say.
struct LogHeader {
  Generation generation;
  std::uint64_t generation_first = 0;  ///< sequence of the generation's first batch
  std::uint64_t first = 0;             ///< sequence of the first batch in this file
  std::uint64_t inode = 0;             ///< the database file the generation is of
  std::uint64_t device = 0;
  Record state;                   ///< what is known before the first record of this file
  std::uint64_t batch_chain = 0;  ///< the chain value after the last batch before this file
  std::uint64_t wal_first = 0;    ///< see Tail
};

/// One page of a batch, in the order they lie in the record.
struct PageEntry {
  std::uint32_t page = 0;
  std::uint32_t hash = 0;  ///< of the image
};

std::uint32_t hash_page(ByteView image);

std::string log_file_name(std::uint64_t first_sequence);
std::optional<std::uint64_t> parse_log_file_name(std::string_view name);

/// One log file. Not thread-safe. Errors of the system are thrown as std::system_error, damage as
/// Error.
class LogFile {
 public:
  /// Creates the file and writes its header. Throws when it exists.
  static LogFile create(const std::string& path, const LogHeader& header, mode_t mode);
  /// Opens a file and reads its header; empty when the header is torn or damaged.
  static std::optional<LogFile> open(const std::string& path, bool writable);

  const LogHeader& header() const { return header_; }
  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }
  std::uint64_t size() const;

  static constexpr std::uint64_t kHeaderSize = 512;

  /// A record at `offset`; empty when none is there, or it is torn. Checks the record's own header
  /// and page list, and each image too when `check_images`.
  struct Found {
    Record record;
    std::uint64_t offset = 0;  ///< where the record begins
    std::uint64_t end = 0;     ///< where the next begins
    std::uint64_t images = 0;  ///< where the first image begins
  };
  std::optional<Found> read(std::uint64_t offset, std::uint64_t previous_chain,
                            bool check_images) const;

  /// The page list of a record that read() found.
  std::vector<PageEntry> read_pages(const Found& found) const;
  /// One image. Throws Error when it does not have the entry's hash.
  void read_image(const Found& found, std::size_t index, const PageEntry& entry,
                  std::span<std::uint8_t> out) const;

  /// Supplies images while a record is written: fills `out` with the images of pages
  /// [first, first + count), which are `page_count` in all. Returns false to give the record up.
  using ImageSource =
      std::function<bool(std::size_t first, std::size_t count, std::span<std::uint8_t> out)>;

  /// Appends at `offset`, the end of the last whole record. The record's header is written last
  /// (for what fits one buffer: in the same write), so a torn one is no record. Sets record.chain
  /// from `previous_chain`, but for a folded one, which has it. Returns where the next record
  /// begins; 0 when the source gave it up. On any failure the file is cut back to `offset`.
  std::uint64_t append(std::uint64_t offset, Record& record, std::uint64_t previous_chain,
                       const std::vector<std::uint32_t>& pages, const ImageSource& source);

  void truncate(std::uint64_t size);

 private:
  LogFile(std::string path, UniqueFd fd, LogHeader header)
      : path_(std::move(path)), fd_(std::move(fd)), header_(header) {}
  std::string path_;
  UniqueFd fd_;
  LogHeader header_;
};

}  // namespace sqlstream::capture
