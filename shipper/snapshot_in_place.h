#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "capture/old_pages.h"
#include "shipper/batch.h"
#include "shipper/snapshot.h"
#include "shipper/source_file.h"

namespace sqlstream {

/// Read from the database file itself while commits and checkpoints go on, as it was when it began:
/// what a checkpoint is about to overwrite is saved first by whoever makes it, and what was in the
/// WAL alone then is read from the outbox. No local copy; doc/internals.md has the proof.
class SnapshotInPlace final : public SnapshotImage {
 public:
  /// Null when it is not possible now: then a local copy may be. Until the call has returned, the
  /// outbox's batches must be kept and not be folded.
  static std::unique_ptr<SnapshotInPlace> begin(Database& database);
  ~SnapshotInPlace() override;
  SnapshotInPlace(const SnapshotInPlace&) = delete;
  SnapshotInPlace& operator=(const SnapshotInPlace&) = delete;

  bool read_piece(Bytes& piece) override;
  bool possible() const override { return !lost_ && !old_.is_void(); }
  void explain() const override;
  Database::Proof prove() override;

 private:
  SnapshotInPlace(Database& database, Database::InPlace begun);
  bool read_overlay();
  void put_pages(std::uint32_t count, std::span<std::uint8_t> piece);
  void lose(const char* why);
  bool outgrown() const noexcept;
  void put_page(std::uint32_t page, bool saved, std::span<std::uint8_t> out);

  Database& database_;
  capture::OldPages old_;
  capture::Tail begun_;
  SourceFile source_;
  Batch batches_;                                      // since the first of the WAL that was in use
  std::span<const Batch::Pages::value_type> overlay_;  // theirs, ascending
  std::size_t passed_ = 0;                             // of them
  std::uint32_t next_ = 1;
  bool exact_ = false;
  bool lost_ = false;  // what was saved cannot be read
};

}  // namespace sqlstream
