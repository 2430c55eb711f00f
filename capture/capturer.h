#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "capture/outbox.h"
#include "capture/wal_index.h"

namespace sqlstream::capture {

/// What a capture reads from, valid during the call.
struct Source {
  /// Mapped wal-index regions, borrowed from a connection that keeps them mapped meanwhile.
  std::vector<const volatile void*> regions;
  /// Maps one more region through the application's connection; null outside of a hook.
  std::function<const volatile void*(std::size_t region)> map_more;
  /// The -wal file, read-only; -1 when there is none yet.
  int wal_fd = -1;
  /// The database file that the connection whose regions these are has open, which is perhaps no
  /// longer the one of that name; empty: not known.
  std::optional<FileIdentity> opened;
  /// The caller is about to bring frames into the database file; before it said so in the
  /// wal-index, checkpoints had come as far as this.
  std::optional<CheckpointProgress> checkpoint_begins;
  /// A connection of this process has recovered the wal-index since the last capture that saw
  /// everything through.
  bool recovered = false;
  /// The wal-index change counter of this process's own last commit, and its time; if that is not
  /// the newest commit, another process made it and now() is taken.
  std::uint32_t own_change = 0;
  std::int64_t own_commit_time = 0;    ///< ns since 1970
  std::int64_t first_commit_time = 0;  ///< of the first commit not captured yet; 0: unknown
};

/// The database file, read through the host's VFS (a plain descriptor of it would drop locks).
struct DatabaseShape {
  std::uint32_t page_size = 0;
  std::uint32_t pages = 0;
  bool wal_mode = false;
  std::uint32_t counted = 0;  ///< DatabaseHeader::pages
};

enum class Outcome {
  up_to_date,  ///< nothing new
  captured,    ///< a batch was appended
  try_again,   ///< SQLite is writing the wal-index
  busy,        ///< the capture lock was not to be had in time, or a region is not mapped here yet
  waiting,     ///< no generation goes on, and a new one may not begin yet
  failed,      ///< the outbox cannot be written, or the WAL not be read; error() says why
  moved,       ///< another file has the database's name, or none
};

/// Whether another file has the database's name, where the outcome says.
inline std::optional<bool> tells_moved(Outcome outcome) {
  if (outcome == Outcome::moved) return true;
  if (outcome == Outcome::up_to_date || outcome == Outcome::captured ||
      outcome == Outcome::waiting) {
    return false;
  }
  return std::nullopt;
}

/// How many bytes an outbox may hold: `max_size`, or when that is 0 the larger of 1 GiB and twice
/// the database as it is after `last`.
std::uint64_t outbox_limit(std::uint64_t max_size, const Record& last);

/// Copies committed pages from SQLite's WAL into the outbox, proving at each step that nothing is
/// missing in between; what is not proven begins a new generation. One object per process and
/// database. Not thread-safe: the owner serialises calls. Never throws; without memory a capture
/// fails.
class Capturer {
 public:
  /// `shape` reads the database header when there is no WAL; `max_size`: see
  /// outbox_limit(). Both referenced objects must outlive the Capturer.
  Capturer(Outbox& outbox, std::string database_path,
           std::function<std::optional<DatabaseShape>()> shape, std::uint64_t max_size);

  /// A connection of this process mapped the wal-index, and none had before: the change counter in
  /// it may have begun anew since the last capture, so only salts, checksums and the identity of
  /// the database file prove anything until a capture has succeeded.
  void session_began() {
    anchored_ = false;
    anchor_.reset();
  }

  /// Captures every commit that is visible now. `must`: it is about to leave the WAL, so another
  /// process that has the capture lock is waited for longer than `wait` while it gets on.
  Outcome capture(const Source& source, std::chrono::nanoseconds wait, bool must = false);

  /// Without any mapping: begins a generation for a database in WAL mode whose WAL is empty or not
  /// there, so that the file is the whole state, recognised by its identity from then on.
  Outcome begin_from_file();

  /// For the holder of the write lock, before the header of a new WAL with `salt` is written
  /// (empty: before the WAL is truncated to nothing by a checkpoint): says in the outbox that what
  /// comes there continues what was captured, so that the next process knows it even if this one
  /// dies.
  /// False when the capture lock was not to be had within `wait`, or longer while its holder gets
  /// on: nothing was noted.
  bool note_new_wal(const Source& source, std::optional<wal::Salt> salt,
                    std::chrono::nanoseconds wait);

  /// A checkpoint that was announced by Source::checkpoint_begins has come to its end. Best effort.
  void checkpoint_ended(const Source& source) noexcept;

  /// For the last connection, while it holds the EXCLUSIVE lock, everything is in the database
  /// file, and the WAL is about to be deleted or was: that file is the whole state, recognisable by
  /// its identity at the next open. Until the WAL is gone, it proves the same.
  /// `opened`: see Source.
  void note_clean_close(const std::optional<FileIdentity>& opened = {});

  /// From now on a new generation begins at once, however quickly others were begun: the process is
  /// about to end, and nobody may follow it.
  void hurry() { hurried_ = true; }

  /// Gives the current generation up, without waiting for anybody. Logged once per generation.
  void give_up(std::string_view why) noexcept;

  /// How many frames were captured by this object.
  std::uint64_t frames() const { return frames_; }
  /// True when everything the outbox's last record says was captured while a generation goes on.
  bool generation_alive() const { return alive_; }
  const std::string& error() const { return error_; }

 private:
  struct Range {
    std::uint32_t first;  // frames first..last are to be captured
    std::uint32_t last;
  };
  Outcome capture_locked(const Source& source);
  bool may_begin();
  Outcome begin(Source& source);
  Outcome begin_with(const Source& source, const WalIndexHeader& header);
  Outcome nothing_new(const WalIndexHeader& header);
  Outcome append(Source& source, const WalIndexHeader& header, Range range);
  std::optional<Range> prove(const Source& source, const WalIndexHeader& header,
                             const FileIdentity& database, const char*& why);
  bool map_regions(Source& source, std::uint32_t frames) const;
  Outcome moved(Source& source, const WalIndexHeader& header);
  struct FileLook {
    std::optional<FileIdentity> identity;
    // Empty where what was seen is not of one moment, or of another WAL.
    std::optional<FileMark> mark;
  };
  FileLook look_at_file(const Source& source, const WalIndexHeader& header) const;
  static bool is_moved(const Source& source, const FileLook& file);
  bool is_this_file(const Source& source, const FileLook& file, const WalIndexHeader& header);
  void doubt_file(std::string_view why, const std::optional<FileMark>& mark);
  void withdraw_mark();
  void mark_file(const Source& source, const FileLook& file, const WalIndexHeader& header,
                 bool locked = false) noexcept;
  std::optional<FileIdentity> stamp();
  void fail(const std::exception& error) noexcept;
  void recovered();
  void tried_in_vain();

  Outbox& outbox_;
  std::string path_;
  std::function<std::optional<DatabaseShape>()> shape_;
  std::uint64_t max_size_;
  // A place of the wal-index mapped now that means the same as the outbox's record with this chain.
  struct Anchor {
    std::uint64_t chain;
    SourcePosition position;
  };
  bool alive_ = false;
  bool anchored_ = false;  // captures since session_began() prove the wal-index to be one lifetime
  std::optional<Anchor> anchor_;
  std::string error_;
  bool failing_ = false;
  // Since then SQLite's header and the WAL have not been of one state, at no look.
  std::optional<std::chrono::steady_clock::time_point> in_vain_since_;
  Generation given_up_;
  std::uint64_t frames_ = 0;
  bool hurried_ = false;
};

}  // namespace sqlstream::capture
