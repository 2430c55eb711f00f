#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "format/wal.h"

/// Reading SQLite's wal-index through mappings that belong to the application's connections
/// (https://sqlite.org/walformat.html, section 2). Nothing here maps, locks or writes.
namespace sqlstream::capture {

inline constexpr std::uint32_t kRegionSize = 32768;

/// The part of the wal-index header that capture needs, decoded.
struct WalIndexHeader {
  std::uint32_t change = 0;     ///< iChange: one more with each commit
  std::uint32_t page_size = 0;  ///< 0 before the first frame of a new wal-index
  std::uint32_t frames = 0;     ///< mxFrame: the last committed frame
  std::uint32_t pages = 0;      ///< database size after it, in pages
  wal::Checksum sum{};          ///< running checksum of that frame
  wal::Salt salt{};
  bool operator==(const WalIndexHeader&) const = default;
};

/// Both copies of the header, compared and checked; empty while SQLite is writing it, before it is
/// initialised, or when it is of a version unknown here. `region0` is the first mapped region.
std::optional<WalIndexHeader> read_wal_index_header(const volatile void* region0);

/// iChange in copy 0, read without any check: enough to notice a commit cheaply.
std::uint32_t peek_change(const volatile void* region0);
/// mxFrame, likewise.
std::uint32_t peek_frames(const volatile void* region0);

/// How far checkpoints are: frames that are in the database file, and frames that one has begun to
/// write there.
struct CheckpointProgress {
  std::uint32_t done = 0;
  std::uint32_t begun = 0;
  bool operator==(const CheckpointProgress&) const = default;
};

/// Read without any check.
CheckpointProgress read_checkpoint_progress(const volatile void* region0);

/// How many regions cover frames 1..frames. At least 1.
std::size_t regions_for(std::uint32_t frames);

/// The page number stored for frame `frame` (1-based). Precondition: regions.size() >=
/// regions_for(frame), none null.
std::uint32_t page_of_frame(const std::vector<const volatile void*>& regions, std::uint32_t frame);

/// Without salts and checksum: so SQLite (3.40.1; not 3.54.1) leaves frames of a commit that comes
/// behind a savepoint's rollback where that savepoint's pages had gone into the WAL twice
/// (Wal.iReCksum outlives the rollback). It reads them like any other; only a recovery stops there.
bool is_unsealed(const wal::FrameHeader& frame);

/// Whether `frame`, one of the frames 1..header.frames, is of the WAL of `header`. An unsealed one
/// is, where a header read behind it has the same salts: SQLite writes the frames before the header
/// that counts them, and none of them again until a reset, before which the header gets new salts.
/// So neither a rewriting under way nor what an older WAL left can be there. Nor what a machine's
/// crash tore: no header outlives that, and a recovery counts no unsealed frame.
bool is_of_wal(const wal::FrameHeader& frame, const WalIndexHeader& header);

}  // namespace sqlstream::capture
