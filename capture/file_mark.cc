#include "capture/file_mark.h"

namespace sqlstream::capture {
namespace {

// It says that all frames there were have been begun with, and none is done; more may have come.
bool is_recovered(const FileMark& now, bool new_session) {
  return new_session && now.progress.done == 0 && now.progress.begun != 0;
}

}  // namespace

bool is_same_rest(const FileMark& known, const FileMark& now, const Record& last,
                  bool new_session) {
  const bool recovered = is_recovered(now, new_session);
  if (known.salt == now.salt) return known.progress == now.progress || recovered;
  // The next WAL, of which nothing is in the file, after one that was in it as a whole.
  const bool whole = known.whole_at != 0 && known.whole_at == last.sequence;
  return whole && now.progress.done == 0 && (now.progress.begun == 0 || recovered);
}

bool is_at_rest(const FileMark& now, bool new_session) {
  return now.progress.begun == now.progress.done || is_recovered(now, new_session);
}

}  // namespace sqlstream::capture
