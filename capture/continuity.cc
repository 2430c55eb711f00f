#include "capture/continuity.h"

namespace sqlstream::capture {
namespace {

// The WAL is the one of `position`, and still has what was captured from it. Where nothing in that
// frame proves it, the change counter must: within one lifetime of the wal-index a recovery alone
// could have taken frames back, and the counter with them.
Continuity same_wal(const SourcePosition& position, const WalIndexHeader& header,
                    const WalEvidence& wal, bool anchored) {
  if (header.frames < position.frame) {
    return {{}, "the WAL is shorter than what was captured from it"};
  }
  if (position.frame > 0) {
    const auto frame = wal.frame(position.frame);
    const std::uint32_t frames = header.frames - position.frame;
    const std::uint32_t commits = header.change - position.change;
    const bool counted =
        anchored && (frames == 0 ? commits == 0 : commits >= 1 && commits <= frames);
    const bool sealed = frame && frame->salt == position.salt && frame->sum == position.sum;
    if (!sealed && !(frame && is_unsealed(*frame) && counted)) {
      return {{}, "the WAL differs from what was captured from it"};
    }
  }
  return {position.frame + 1};
}

}  // namespace

bool is_unchanged(const SourcePosition& last, const WalIndexHeader& header) {
  return header.salt == last.salt && header.frames == last.frame && header.sum == last.sum &&
         header.frames > 0 && last.sum != wal::Checksum{};
}

Continuity prove_continuity(const Known& known, const WalIndexHeader& header,
                            const FileIdentity& database, const WalEvidence& wal) {
  const Record& record = known.last;
  const SourcePosition& last = known.source;
  if (header.frames > 0 && header.page_size != record.page_size) {
    return {{}, "the page size changed"};
  }
  // A new wal-index has no salts: all zeros are no proof of anything between two sessions.
  const bool has_salt = header.salt != wal::Salt{};
  if (header.salt == last.salt && (has_salt || known.anchored) && header.frames >= last.frame) {
    return same_wal(last, header, wal, known.anchored);
  }
  // The reset that was noted was undone by a crash: the WAL before it is back.
  if (record.kind != RecordKind::batch && has_salt && header.frames > 0 &&
      header.salt == record.previous.salt) {
    return same_wal(record.previous, header, wal, false);
  }
  if (header.frames == 0) {
    // The checksum is of the last committed frame and all before it, under their salts.
    const bool same_frame = header.sum == last.sum && last.sum != wal::Checksum{};
    const bool unsealed = last.frame > 0 && last.sum == wal::Checksum{};
    const bool same_change = header.change == last.change && (header.sum == last.sum || unsealed);
    if (same_frame || (known.anchored && same_change)) return {1};
  } else if (known.anchored) {
    const auto commits = wal.commits();
    if (commits && *commits == header.change - last.change) return {1};
  }
  // No WAL was left, and nobody wrote to the file since: all that came later is in this WAL.
  if (record.identity.inode != 0 && database == record.identity) return {1};
  return {{}, "what was committed since the last capture cannot be proven complete"};
}

}  // namespace sqlstream::capture
