#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "format/position.h"
#include "format/wal.h"

namespace sqlstream {

/// A generation, up to a batch.
struct GenerationEnd {
  Generation generation;
  std::uint64_t sequence = 0;  ///< the batch's in the outbox
  bool operator==(const GenerationEnd&) const = default;
};

/// What sqlstream knows of an object it wrote, in a skippable frame in front of the data: compact
/// JSON with short, stable keys. Unknown keys are ignored when reading; absent ones keep the
/// default.
struct Metadata {
  enum class Kind { snapshot, segment, compacted };
  static constexpr int kFormatVersion = 1;

  Kind kind = Kind::segment;
  Time first_commit{};        ///< commit time of the first commit inside
  Time last_commit{};         ///< … and of the last: what -timestamp is compared with
  std::uint64_t commits = 0;  ///< source commits folded into it
  std::uint32_t pages = 0;    ///< frames (segment) or pages (snapshot); compacted: not told
  std::uint32_t page_size = 0;
  std::uint32_t database_size = 0;  ///< in pages, after it
  bool ends_on_commit = true;  ///< false: one of several objects of a split batch, not the last
  std::uint64_t first_sequence = 0;  ///< outbox sequence of the first batch inside
  std::uint64_t last_sequence = 0;   ///< … and of the last
  std::uint64_t chain = 0;           ///< the outbox's running hash after last_sequence
  std::uint32_t batch_frame = 0;     ///< segment: frames of the first batch in earlier objects
  wal::Salt source_salt{};           ///< of the source WAL when the last batch was captured
  std::uint32_t source_frame = 0;    ///< last captured frame in that WAL
  std::uint64_t wal_size = 0;        ///< segment: uncompressed bytes in this object;
                                     ///< compacted: in the segments it stands for
  wal::Salt wal_salt{};              ///< not snapshot: salts of the segments' WAL
  wal::Checksum wal_sum{};           ///< … and its chain checksum after the last of their frames
  std::optional<GenerationEnd>
      after;             ///< snapshot: what the replica ended with when the generation
                         ///< began in it; empty: nothing, or it is not known
  std::string host;      ///< who wrote it
  std::string database;  ///< its path there
};

/// What was written there is not what is there now. Not where a newer version wrote it.
class DamagedMetadata : public Error {
 public:
  using Error::Error;
};

/// The whole skippable frame.
Bytes encode_metadata(const Metadata& metadata);
/// From the first bytes of an object; empty when it does not begin with our frame (Litestream's do
/// not) or the frame is not whole within `head`. Throws DamagedMetadata when it is ours and
/// damaged, Error when it is newer than this version reads.
std::optional<Metadata> decode_metadata(ByteView head);

}  // namespace sqlstream
