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
/// batches since the first of the WAL that was in use at the beginning are applied, up to the last
/// one captured after the copy. What came before that WAL was in the file; what a checkpoint wrote
/// meanwhile was captured before it was written.
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
  /// After begin(): the first batch that will be applied. It and those behind it must be kept till
  /// then.
  std::uint64_t first() const { return first_; }
  Generation generation() const { return generation_; }
  /// Copies the next piece; false when the end was reached.
  bool copy_piece();
  /// Captures, and takes the last batch captured as the place the copy will be of. False when the
  /// copy is void: the generation ended, or the database changed unseen.
  bool end();
  /// After end(): that batch.
  const capture::Record& at() const { return at_; }
  std::uint64_t size() const { return size_; }
  /// Applies the batches up to it.
  void apply();
  /// Reads and compresses the next piece of the image into `out`; false when that was the last.
  bool compress_piece(Bytes& out);

 private:
  void resize(std::uint64_t bytes);

  Database& database_;
  std::string file_;
  UniqueFd fd_;
  std::unique_ptr<SourceFile> source_;
  Generation generation_;
  std::uint64_t first_ = 0;
  std::uint64_t offset_ = 0;
  std::uint64_t size_ = 0;
  capture::Record at_;
  lz4::Compressor compressor_;
};

}  // namespace sqlstream
