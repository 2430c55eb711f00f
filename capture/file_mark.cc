#include "capture/file_mark.h"

namespace sqlstream::capture {
namespace {

// All frames there were have been begun with, and none is done; more may have come.
bool is_as_recovered(const FileMark& now) {
  return now.progress.done == 0 && now.progress.begun != 0;
}

}  // namespace

bool is_same_rest(const FileMark& known, const FileMark& now, const Record& last, bool recovered) {
  const bool none_done = recovered && is_as_recovered(now);
  if (known.salt == now.salt) return known.progress == now.progress || none_done;
  // The next WAL, of which nothing is in the file, after one that was in it as a whole.
  const bool whole = known.whole_at != 0 && known.whole_at == last.sequence;
  return whole && now.progress.done == 0 && (now.progress.begun == 0 || none_done);
}

bool is_at_rest(const FileMark& now, bool recovered) {
  return now.progress.begun == now.progress.done || (recovered && is_as_recovered(now));
}

}  // namespace sqlstream::capture
