#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace sqlstream {

/// What is restored could not be written.
class OutputError : public Error {
 public:
  using Error::Error;
};

/// There is a file at the output path already.
class OutputExists : public Error {
 public:
  using Error::Error;
};

/// Throws OutputExists, or Error when a -wal, -shm or -journal beside `output` exists: a stale one
/// of these would silently change the restored database.
void refuse_existing_output(const std::string& output);

/// Creates the folders that `output` is to be in, where they are missing; those that are empty in
/// the end are removed again. Throws OutputError.
class FolderOf {
 public:
  explicit FolderOf(const std::string& output);
  ~FolderOf();
  FolderOf(const FolderOf&) = delete;
  FolderOf& operator=(const FolderOf&) = delete;

 private:
  std::vector<std::string> made_;  // the innermost first
};

/// A file without a name, gone with the object.
class ScratchFile {
 public:
  /// `output`: what the user calls the file this is for, in messages.
  ScratchFile(UniqueFd fd, std::string output) : fd_(std::move(fd)), output_(std::move(output)) {}
  void write(std::uint64_t offset, ByteView data);
  void read(std::uint64_t offset, std::span<std::uint8_t> data) const;
  void clear();

 private:
  UniqueFd fd_;
  std::string output_;
};

/// A file that becomes `output` when it is complete, and until then is a hidden temporary one
/// beside it that only its owner can read. Removed by the destructor unless published. Writing is
/// thread-safe for disjoint ranges.
class TargetFile {
 public:
  /// `mode` empty: a new file's. Throws as refuse_existing_output(), and when the folder cannot be
  /// written.
  explicit TargetFile(std::string output, std::optional<mode_t> mode = {});
  ~TargetFile();
  TargetFile(const TargetFile&) = delete;
  TargetFile& operator=(const TargetFile&) = delete;

  void write(std::uint64_t offset, ByteView data);
  void set_size(std::uint64_t size);
  /// The disk may begin with what was written there: publish() then waits for less. A hint.
  void begin_writeback(std::uint64_t offset, std::uint64_t size) noexcept;

  /// Of the temporary file. Precondition: not published.
  const std::string& path() const { return temporary_; }

  /// An unnamed file in the same folder, for what does not fit in memory.
  ScratchFile scratch() const;

  /// Makes it durable and gives it its name and mode, never replacing another file.
  void publish();

 private:
  std::string output_;
  std::string folder_;
  std::optional<mode_t> mode_;
  std::string temporary_;  // full path; empty once published
  UniqueFd fd_;
};

}  // namespace sqlstream
