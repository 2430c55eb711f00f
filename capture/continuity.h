#pragma once

#include <cstdint>
#include <optional>

#include "capture/outbox_log.h"
#include "capture/wal_index.h"

/// What proves that nothing was committed unseen between the outbox's last record and the WAL as it
/// is now: the decision alone, apart from all reading (doc/internals.md, Continuity).
namespace sqlstream::capture {

/// What a proof may look up in the -wal. Asked only when the proof depends on it.
class WalEvidence {
 public:
  virtual ~WalEvidence() = default;
  /// The header of a frame; empty when the file has no such frame.
  virtual std::optional<wal::FrameHeader> frame(std::uint32_t number) const = 0;
  /// How many of the frames up to the last committed one end a commit; empty when one of them is
  /// not of this WAL.
  virtual std::optional<std::uint32_t> commits() const = 0;
};

/// What is known when a proof is asked for.
struct Known {
  Record last;            ///< the outbox's last record
  SourcePosition source;  ///< its place in the source, as the wal-index mapped now counts it
  /// The change counter and `source` are of one lifetime of the wal-index.
  bool anchored = false;
};

struct Continuity {
  /// The first frame that was not captured; empty: not proven, or there is a gap.
  std::optional<std::uint32_t> first;
  const char* why = "";  ///< why it is empty
};

/// True when nothing was committed since `last`, told by the wal-index alone. Behind an unsealed
/// frame nothing tells it.
bool is_unchanged(const SourcePosition& last, const WalIndexHeader& header);

/// Decides whether frames `first`..header.frames are all that was committed since `known`.
/// `database`: the identity of the database file now. Thread-safe; throws what `wal` throws.
Continuity prove_continuity(const Known& known, const WalIndexHeader& header,
                            const FileIdentity& database, const WalEvidence& wal);

}  // namespace sqlstream::capture
