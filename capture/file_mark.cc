#include "capture/file_mark.h"

#include <cstdlib>

namespace sqlstream::capture {
namespace {

// Longer than a checkpoint takes from one write to the next, and nearly always than its fsync;
// otherwise a generation begins for nothing.
constexpr std::int64_t kRested = 10'000'000'000;

// All frames there were have been begun with, and none is done; more may have come.
bool is_as_recovered(const FileMark& now) {
  return now.progress.done == 0 && now.progress.begun != 0;
}

}  // namespace

bool is_at_rest(const FileMark& now, const Moment& moment) {
  return now.progress.begun == now.progress.done || moment.locked ||
         (moment.recovered && is_as_recovered(now));
}

bool is_same_rest(const FileMark& known, const FileMark& now, const Record& last,
                  const Moment& moment) {
  const bool none_done = moment.recovered && is_as_recovered(now);
  if (known.salt == now.salt) {
    if (known.progress != now.progress) return none_done;
    return is_at_rest(now, moment) || std::abs(moment.time - now.file.mtime) > kRested;
  }
  // The next WAL, of which nothing is in the file, after one that was in it as a whole.
  const bool whole = known.whole_at != 0 && known.whole_at == last.sequence;
  return whole && now.progress.done == 0 && (now.progress.begun == 0 || none_done);
}

}  // namespace sqlstream::capture
