#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "format/lz4_frame.h"
#include "shipper/batch.h"
#include "shipper/database.h"
#include "shipper/source_file.h"

namespace sqlstream {

/// An exact image of a database at a position, made in a local file without holding back the
/// application's checkpoints: the file is copied while commits and checkpoints go on; then all
/// batches since the generation's first, which holds every frame the WAL had, are applied up to the
/// last one captured after the copy. What a checkpoint wrote meanwhile was captured before it was
/// written.
///
/// Each call does a bounded piece of work and runs on a worker. One thread at a time. The file is
/// deleted with the object.
class SnapshotCopy {
 public:
  /// Throws when the local file cannot be made.
  SnapshotCopy(Database& database, std::string file);
  ~SnapshotCopy();
  SnapshotCopy(const SnapshotCopy&) = delete;
  SnapshotCopy& operator=(const SnapshotCopy&) = delete;

  /// Looks whether an exact copy can be made now: some connection here has the WAL mapped, or the
  /// database is cleanly closed. False: not now.
  bool begin();
  /// Copies the next piece; false when the end was reached.
  bool copy_piece();
  /// Applies the batches captured up to now. False when the copy is void: the generation ended, or
  /// the database changed unseen.
  bool finish();

  /// After finish().
  Generation generation() const { return generation_; }
  const capture::Record& at() const { return at_; }
  std::uint64_t size() const { return size_; }
  /// Reads and compresses the next piece of the image into `out`; false when that was the last.
  bool compress_piece(Bytes& out);

 private:
  Database& database_;
  std::string file_;
  UniqueFd fd_;
  std::unique_ptr<SourceFile> source_;
  Generation generation_;
  std::uint64_t generation_first_ = 0;
  std::uint64_t offset_ = 0;
  std::uint64_t size_ = 0;
  capture::Record at_;
  lz4::Compressor compressor_;
};

}  // namespace sqlstream
