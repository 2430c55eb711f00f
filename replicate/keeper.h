#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "capture/source.h"
#include "format/wal.h"
#include "replicate/handle.h"

namespace sqlstream {

/// What can be seen of a WAL without a lock.
struct WalState {
  wal::Salt salt{};
  std::uint32_t frames = 0;      ///< the last committed one
  std::uint32_t change = 0;      ///< one more with each commit
  std::uint32_t backfilled = 0;  ///< frames that are in the database file, too
  bool under_way = false;        ///< a commit or a checkpoint may be about to end
  bool same_commit(const WalState& other) const {
    return salt == other.salt && frames == other.frames && change == other.change;
  }
};

/// A database that cannot be followed now, which mostly is over in a moment.
class Busy : public Error {
 public:
  using Error::Error;
};

/// Sees to it that what other programs commit to a database is captured before it leaves the WAL,
/// without ever keeping them waiting: at every moment one of two connections holds a read
/// transaction, and the next one begins before the last one ends. SQLite copies no frame behind a
/// reader's mark into the database file, and starts the WAL anew only when every frame is there and
/// nobody reads from the WAL. So each step begins a new read transaction, captures, and then ends
/// the old one. A transaction that begins when the whole WAL is in the file reads from the file
/// only: it lets the next writer start the WAL anew, and holds back any checkpoint of the new one.
///
/// For one thread at a time.
class Keeper {
 public:
  struct Limits {
    std::uint32_t soft = 1000;   ///< pages in the WAL from which on it is checkpointed
    std::uint32_t hard = 10000;  ///< … and writers held off meanwhile, so that it comes to an end
  };

  /// Null when there is no database with content yet, or another file takes its place just now.
  /// Throws Error when it cannot be opened in WAL mode, and Busy where that may pass by itself, as
  /// when another program is busy with it.
  static std::unique_ptr<Keeper> open(const std::string& path, Limits limits);
  /// Captures what is committed, and lets go of the database.
  ~Keeper();

  /// Is `path` still the file that is open here?
  bool is_current() const;
  /// What is there now, cheaply; a new commit is noted with its time. Empty while it changes.
  std::optional<WalState> look();
  /// Is there anything that a step would do?
  bool has_news(const WalState& state) const;
  /// How many frames are behind the newest step.
  std::uint32_t behind(const WalState& state) const;
  /// Captures and moves the read transaction forward; checkpoints when the WAL is over a limit.
  /// False: not now, try again.
  bool step();

 private:
  Keeper(std::string path, Limits limits);
  void take_hold();
  bool captured(Handle& handle, bool must);
  bool advance(const WalState& state);
  void checkpoint_alone();
  bool is_under_way(std::uint32_t page_size, const WalState& state, std::uint32_t begun) const;
  bool read_wal(std::span<std::uint8_t> bytes, std::uint64_t offset) const;

  const std::string path_;
  const Limits limits_;
  std::unique_ptr<Handle> holder_, other_;  // only the holder is in a transaction between steps
  UniqueFd wal_;
  capture::FileIdentity file_;
  std::optional<WalState> stepped_;
  std::uint32_t next_alone_;  // frames from which on writers are held off
};

}  // namespace sqlstream
