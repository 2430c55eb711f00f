#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "format/wal.h"

namespace sqlstream::capture {

/// A place in the history of the source: the last committed frame of its WAL, and what proves it.
struct SourcePosition {
  wal::Salt salt{};
  std::uint32_t frame = 0;
  std::uint32_t change = 0;  ///< the wal-index's iChange there
  wal::Checksum sum{};       ///< running checksum of the frame (carried over a reset)
  bool operator==(const SourcePosition&) const = default;
};

/// What the file system says of a file: equal values mean that nobody wrote to it in between, once
/// its mtime was made distinctive (stamp_identity).
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t mtime = 0;  ///< ns
  std::int64_t ctime = 0;  ///< ns
  bool operator==(const FileIdentity&) const = default;
  bool same_file(const FileIdentity& other) const {
    return device == other.device && inode == other.inode;
  }
};

/// stat(2); opens nothing. Empty when there is no such file.
std::optional<FileIdentity> identify(const std::string& path);

/// Names this very file: another one that comes in its place has another, also where the kernel
/// gives it the same inode number (told by the time of birth, if the file system has that). 0:
/// there is no such file.
std::uint32_t file_tag(const std::string& path);

/// Names the time since the machine was started; 0 when that is not known.
std::uint32_t boot_id();

/// Gives the file an mtime that no later write can leave in place, and returns its identity then.
/// The kernel stamps writes with a clock of some ms granularity, so a write right after a look
/// would go unseen: hence a value up to 1 ms earlier and between two ticks; where that is not
/// permitted (not the owner), waits until the tick of the last change has passed (at most 10 ms).
/// Empty when the file was written meanwhile, or the file system's times are too coarse for it.
std::optional<FileIdentity> stamp_identity(const std::string& path);

}  // namespace sqlstream::capture
