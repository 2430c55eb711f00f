#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "capture/outbox.h"

/// Keeping an outbox small while the store is away: batches that nobody has begun to ship become
/// one, with the newest image of each page. That costs points in time to restore to, never data.
namespace sqlstream {

/// What the shippers of a replica still need of the log files.
struct OutboxUse {
  /// The last batch the replica has; the batches before and behind it are not folded together.
  std::uint64_t end = 0;
  /// Batches first..last are being shipped and stay as they are; none when last is 0.
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};

/// A run of log files, by the first sequence of each, ascending; `end` is that of the file behind.
struct FoldRun {
  std::vector<std::uint64_t> files;
  std::uint64_t end = 0;
};

/// The runs of two files or more that may each become one. `files`: all log files, ascending; the
/// last is appended to and stays.
std::vector<FoldRun> plan_folds(const std::vector<std::uint64_t>& files,
                                const std::vector<OutboxUse>& uses);

/// Folds a run's files into the first of them: written under another name, renamed, then the others
/// are deleted. Whatever ends it in between, each batch is still there once, in a file that is read
/// for it. A generation's end, another page size or a size near 4 GiB end a fold and begin the
/// next. Nobody reads the files meanwhile but through descriptors opened before. Throws
/// std::system_error, or Error for a damaged file; the files are then as they were, or some of the
/// folds are done. Returns the bytes that it freed.
std::uint64_t fold(const capture::OutboxPlace& place, const FoldRun& run);

/// Deletes what a fold() that was ended in between left: files whose batches were folded into an
/// earlier one, and the unfinished one. For the process that ships, before it reads. `files` as
/// above. Throws as fold().
void finish_fold(const std::string& directory, const std::vector<std::uint64_t>& files);

}  // namespace sqlstream
