#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace sqlstream {

/// What a database begins with: https://sqlite.org/fileformat2.html, section 1.3.
struct DatabaseHeader {
  static constexpr std::size_t kSize = 100;  ///< bytes

  std::uint32_t page_size = 0;  ///< bytes; 0: none that is valid
  /// As SQLite counts them. What is beyond them in the file is not of the database, nor is it in
  /// the WAL, although the file, and commits, may count more pages: SQLITE_FCNTL_CHUNK_SIZE. 0: a
  /// very old SQLite wrote last, and the file's size is what counts.
  std::uint32_t pages = 0;
  bool wal_mode = false;
  bool reserved_bytes = false;  ///< some at the end of each page are not SQLite's
};

/// Takes any bytes.
DatabaseHeader decode_database_header(std::span<const std::uint8_t, DatabaseHeader::kSize> bytes);

}  // namespace sqlstream
