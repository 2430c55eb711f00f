#pragma once

#include <cstdint>

#include "capture/outbox_log.h"
#include "capture/wal_index.h"

/// What tells that the database file was overwritten in its place, by something that is no SQLite:
/// a backup copied over it. The WAL and its index know nothing of that. The decision alone, apart
/// from all reading (doc/internals.md, Continuity).
namespace sqlstream::capture {

/// A look at the database file, and how far checkpoints had come then.
struct FileMark {
  FileIdentity file;
  wal::Salt salt{};
  CheckpointProgress progress;
  /// Everything captured was in the file by then: up to this batch; 0: not everything.
  std::uint64_t whole_at = 0;

  /// The file was not written in between; a change of its mode or owner does not count.
  bool same_content(const FileIdentity& other) const {
    return file.inode == other.inode && file.size == other.size && file.mtime == other.mtime;
  }
};

/// True when no checkpoint can have written to the file between two looks. `last`: the outbox's
/// last record. `new_session`: the wal-index may have been recovered since the first look, which
/// forgets how far checkpoints had come.
///
/// Checkpoints of this project's connections withdraw the mark before they write, so only the
/// others' need be told by how far they have come.
bool is_same_rest(const FileMark& known, const FileMark& now, const Record& last, bool new_session);

/// True when no checkpoint is under way, as far as the wal-index tells: a look is worth being
/// remembered. Also after a recovery, when it says that all frames were begun with.
bool is_at_rest(const FileMark& now, bool new_session);

}  // namespace sqlstream::capture
