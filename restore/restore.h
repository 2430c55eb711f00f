#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/thread_pool.hpp>

#include "base/log.h"
#include "format/metadata.h"
#include "format/position.h"
#include "store/store.h"

namespace sqlstream {

/// The replica holds nothing of what was asked for: nothing at all, not that generation, or nothing
/// as early as that moment.
class NothingToRestore : public Error {
 public:
  using Error::Error;
};

/// The first of these: there is no backup.
class NoBackup : public NothingToRestore {
 public:
  using NothingToRestore::NothingToRestore;
};

class TargetFile;

struct RestoreOptions {
  std::string output;                    ///< the database file to write; must not exist
  std::optional<Generation> generation;  ///< empty: the one with the latest data
  std::optional<std::uint32_t> index;    ///< up to the end of this WAL index
  std::optional<Time> timestamp;         ///< every batch whose last commit time is <= it
  std::optional<Position> until;         ///< no object that begins there or behind it
  std::optional<mode_t> mode;            ///< of the output; empty: a new file's
  bool make_folder = false;              ///< the output's, where it is missing
  bool temporary = false;                ///< never named `output`; see RestoreResult::temporary
  bool quiet = false;                    ///< nothing in the log
  log::Fields log_as;                    ///< names it in the log; empty: the replica's URL
  bool compacted = true;                 ///< read folded segments where there are any
  unsigned parallelism = 8;  ///< large downloads in flight, >= 1; 16 times as many of small objects
};

struct RestoreResult {
  std::string output;
  Generation generation;
  Position position;  ///< the end of what was applied
  Time commit_time;   ///< of the last commit in it
  std::uint64_t pages = 0;
  std::uint32_t page_size = 0;
  /// Where that was asked for: `output` names a file that only its owner can read, and that is
  /// removed with this.
  std::shared_ptr<const TargetFile> temporary;
};

/// What a restore would read.
struct RestoreTarget {
  Generation generation;
  Time latest{};                     ///< when the last data in it was committed
  std::uint64_t sequence = 0;        ///< of that in the outbox; 0: not known
  std::vector<GenerationEnd> after;  ///< what the generation was begun behind, the latest first
};

/// Whether a replica with `a` has later data than one with `b`.
bool is_newer(const RestoreTarget& a, const RestoreTarget& b);

/// The generation that restore() would choose with these options. Throws as restore() does.
asio::awaitable<RestoreTarget> find_target(Store& store, RestoreOptions options);

/// Told about progress, on the executor of restore().
struct RestoreProgress {
  std::uint64_t objects_done = 0, objects_total = 0;
  std::uint64_t bytes_done = 0, bytes_total = 0;  ///< stored bytes downloaded
};
using ProgressCallback = std::function<void(const RestoreProgress&)>;

/// Restores into a temporary file beside options.output, verifies every checksum, fsyncs, and
/// renames without replacing. On any failure nothing is left behind. Awaited on the store's
/// executor, which must be one thread; ends early, leaving nothing, when it is cancelled
/// (terminal). `store` and `workers` must outlive it. Throws Error (StoreError for the store's,
/// NothingToRestore): "cannot restore, output path already exists", "no matching backups found", …
/// Decoding runs on `workers`. Memory is bounded whatever the size.
asio::awaitable<RestoreResult> restore(Store& store, RestoreOptions options,
                                       asio::thread_pool& workers, ProgressCallback progress);

}  // namespace sqlstream
