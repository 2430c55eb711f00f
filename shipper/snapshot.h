#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "shipper/batch.h"
#include "shipper/database.h"
#include "shipper/source_file.h"

namespace sqlstream {

/// An exact image of a database at a position, read once from beginning to end. Each call does a
/// bounded piece of work and runs on a worker. One thread at a time.
class SnapshotImage {
 public:
  virtual ~SnapshotImage() = default;
  Generation generation() const { return generation_; }
  /// The last batch in it.
  const capture::Record& at() const { return at_; }
  std::uint64_t size() const { return std::uint64_t{at_.database_size} * at_.page_size; }
  /// Reads the next piece; false when that was the last.
  virtual bool read_piece(Bytes& piece) = 0;
  /// False when it is void already.
  virtual bool possible() const { return true; }
  /// When it is void: throws Error if another one at once would fare no better.
  virtual void explain() const {}
  /// Whether it is exact can only be told behind the last piece, in some cases not yet.
  virtual Database::Proof prove() { return Database::Proof::exact; }

 protected:
  static constexpr std::size_t kPiece = 1 << 20;
  Generation generation_;
  capture::Record at_;
};

/// Made in a local file without holding back the application's checkpoints: the file is copied
/// while commits and checkpoints go on; then all batches since the first of the WAL that was in use
/// at the beginning are applied, up to the last one captured after the copy. What came before that
/// WAL was in the file; what a checkpoint wrote meanwhile was captured before it was written.
///
/// The file is deleted with the object.
class SnapshotCopy final : public SnapshotImage {
 public:
  /// Throws when the local file cannot be made.
  SnapshotCopy(Database& database, std::string file);
  ~SnapshotCopy() override;
  SnapshotCopy(const SnapshotCopy&) = delete;
  SnapshotCopy& operator=(const SnapshotCopy&) = delete;

  /// Looks whether an exact copy can be made now: some connection here has the WAL mapped, or the
  /// database is cleanly closed. False: not now.
  bool begin();
  /// After begin(): the first batch that will be applied. It and those behind it must be kept till
  /// then.
  std::uint64_t first() const { return first_; }
  /// Copies the next piece; false when the end was reached.
  bool copy_piece();
  /// Captures, and takes the last batch captured as the place the copy will be of: at(). False when
  /// the copy is void: the generation ended, or the database changed unseen.
  bool end();
  /// After end(): applies the batches up to it.
  void apply();
  /// After apply().
  bool read_piece(Bytes& piece) override;

 private:
  void resize(std::uint64_t bytes);

  Database& database_;
  std::string file_;
  UniqueFd fd_;
  std::unique_ptr<SourceFile> source_;
  std::uint64_t first_ = 0;
  std::uint64_t offset_ = 0;
};

}  // namespace sqlstream
