#pragma once

#include <cstdint>
#include <optional>

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
  /// Checkpoints have come no further in between.
  bool same_progress(const FileMark& other) const {
    return salt == other.salt && progress == other.progress;
  }
};

/// What processes tell each other of the database file.
struct FileNote {
  std::optional<FileMark> mark;  ///< the last look; empty: nothing is known
  bool overwritten = false;      ///< … was the file, and no generation was begun since
  /// The generation was begun without the frames up to this one of that WAL: what checkpoints had
  /// brought into the file counted no more. A recovery makes them count again; so does one that
  /// undoes a reset, whose WAL begins on disk later than in the wal-index.
  std::uint32_t left_out = 0;
  wal::Salt left_out_of{};
};

/// What a look knows of checkpoints, beside how far they have come.
struct Moment {
  bool recovered = false;  ///< the wal-index was, since the look before, which forgets how far
  bool locked = false;     ///< this connection has the lock that checkpoints take
  std::int64_t time = 0;   ///< now, ns
};

/// True when no checkpoint is under way, as far as can be told: a look is worth being remembered.
/// A recovery leaves all frames begun with and none done, as the first checkpoint of a WAL does
/// meanwhile; a checkpoint that failed leaves some.
bool is_at_rest(const FileMark& now, const Moment& moment);

/// True when no checkpoint can have written to the file between two looks. `last`: the outbox's
/// last record. What looks like a checkpoint that is under way must have rested for a while.
///
/// Checkpoints of this project's connections withdraw the mark before they write (or end the
/// generation), so only the others' need be told by how far they have come.
bool is_same_rest(const FileMark& known, const FileMark& now, const Record& last,
                  const Moment& moment);

}  // namespace sqlstream::capture
