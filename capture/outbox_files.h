#pragma once

#include <cstddef>
#include <cstdint>
#include <sys/types.h>

#include "format/position.h"

/// The files of an outbox beside its log, as they lie on disk. doc/internals.md describes them.
namespace sqlstream::capture {

inline constexpr std::uint64_t kControlMagic = 0x31545243424f5153;  // "SQOBCRT1"

/// Places in the control file, each written by one call: marks need no lock, the rest does.
struct DiskControl {
  std::uint64_t magic;
  std::uint64_t current_log;
  std::int64_t last_start;
  std::uint32_t quick_starts;
  std::uint32_t left_wal;
  std::uint32_t full;
  std::uint32_t boot;
  std::uint64_t snapshot;  ///< since a later version: may be missing
};
inline constexpr std::size_t kControlLeast = offsetof(DiskControl, snapshot);
static_assert(sizeof(DiskControl) <= 64, "what lies behind has a place of its own");
inline constexpr off_t kControlAt = 0;
/// Since when commits are not waited for in the synchronous mode, ns; 0: they are.
inline constexpr off_t kBehindAt = 64;
/// When somebody was about to begin a generation, ns; 0: nobody yet.
inline constexpr off_t kBeginningAt = 72;
/// See FileNote.
struct DiskFileNote {
  std::uint32_t boot;  ///< since when the machine runs; 0: there is no mark
  std::uint32_t overwritten;
  std::uint64_t inode;
  std::uint64_t size;
  std::int64_t mtime;
  std::uint32_t salt[2];
  std::uint32_t done;
  std::uint32_t begun;
  std::uint64_t whole_at;
  std::uint32_t left_out;
  std::uint32_t left_out_of[2];
  std::uint32_t unused;
};
inline constexpr off_t kFileNoteAt = 128;
inline constexpr off_t kEndedAt = 512;
static_assert(kFileNoteAt + sizeof(DiskFileNote) <= kEndedAt);
/// A place for each generation, by its random id: a process that was stopped and now ends an old
/// one does not take away a newer one's mark.
inline constexpr std::uint64_t kEndedPlaces = 256;

inline off_t ended_place(Generation generation) {
  return kEndedAt + static_cast<off_t>(generation.id % kEndedPlaces * sizeof generation.id);
}

/// Bytes of the lock file. Open file description locks: they belong to the descriptor, so two
/// registrations in one process keep each other out too, and closing another descriptor of the file
/// does not drop them.
inline constexpr off_t kCaptureByte = 0;
inline constexpr off_t kRoleByte = 1;

}  // namespace sqlstream::capture
