#include "shipper/snapshot_in_place.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <new>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "format/wal.h"

namespace sqlstream {
namespace {

using Proof = Database::Proof;

// What was in the WAL alone is remembered in memory: 128 Ki pages take some MB.
constexpr std::uint64_t kMostOverlaid = 128 << 10;
// A checkpoint under way at the beginning is either announced soon or nobody's of ours.
constexpr int kFirstLooks = 50;
constexpr auto kBetweenLooks = std::chrono::milliseconds(5);

}  // namespace

std::unique_ptr<SnapshotInPlace> SnapshotInPlace::begin(Database& database) {
  if (!seen_through(database.capture_in_background())) return nullptr;
  auto begun = database.begin_in_place();
  if (!begun) return nullptr;
  std::unique_ptr<SnapshotInPlace> snapshot;
  try {
    snapshot.reset(new SnapshotInPlace(database, std::move(*begun)));
  } catch (...) {
    database.end_in_place();
    throw;
  }
  // Nobody may have brought frames behind it into the file before it was announced.
  auto proof = snapshot->prove();
  const auto settled = [&] { return proof == Proof::exact || proof == Proof::not_exact; };
  for (int i = 1; i < kFirstLooks && !settled(); ++i) {
    std::this_thread::sleep_for(kBetweenLooks);
    proof = snapshot->prove();
  }
  if (proof != Proof::exact || !snapshot->read_overlay()) return nullptr;
  return snapshot;
}

SnapshotInPlace::SnapshotInPlace(Database& database, Database::InPlace begun)
    : database_(database),
      old_(std::move(begun.pages)),
      begun_(begun.at),
      source_(database.host(), database.path()) {
  generation_ = begun_.generation;
  at_ = begun_.last;
  at_.chain = begun_.batch_chain;
}

SnapshotInPlace::~SnapshotInPlace() {
  const bool in_vain = !possible() || (next_ > at_.database_size && !exact_);
  // A copy would take more than what there was no room for.
  if (in_vain && !outgrown() && database_.generation_alive()) database_.copy_next_snapshot();
  database_.end_in_place();
}

// False when there is too much of it.
bool SnapshotInPlace::read_overlay() {
  // Log files are read from their beginning; what is older than the first batch is passed over.
  const auto files = database_.log_files();
  const auto after = std::upper_bound(files.begin(), files.end(), begun_.wal_first);
  OutboxReader reader(database_.outbox_directory());
  if (after == files.begin() || !reader.seek(*(after - 1) - 1, files) ||
      reader.generation() != generation_) {
    throw Error("the outbox lost what a snapshot needs");
  }
  std::uint64_t pages = 0;
  while (const auto entry = reader.next(at_.sequence)) {
    const auto& record = entry->found.record;
    if (record.sequence < begun_.wal_first) continue;
    pages += record.page_count;
    if (pages > kMostOverlaid) return false;
    batches_.add(*entry);
  }
  overlay_ = batches_.pages();
  return true;
}

bool SnapshotInPlace::read_piece(Bytes& piece) {
  const std::uint32_t page_size = at_.page_size;
  const auto fitting = std::max<std::uint32_t>(1, kPiece / page_size);
  const std::uint32_t count = std::min(fitting, at_.database_size - next_ + 1);
  piece.resize(std::size_t{count} * page_size);
  source_.read(std::uint64_t{next_ - 1} * page_size, piece);
  // Whoever overwrote a page before that saved it first.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  try {
    put_pages(count, piece);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    lose(e.what());
  }
  next_ += count;
  return next_ <= at_.database_size;
}

void SnapshotInPlace::put_pages(std::uint32_t count, std::span<std::uint8_t> piece) {
  const auto saved = old_.saved(next_, count);
  for (std::uint32_t i = 0; i < count; ++i) {
    put_page(next_ + i, saved[i] != 0,
             piece.subspan(std::size_t{i} * at_.page_size, at_.page_size));
  }
  old_.set_copied(next_ + count - 1);
  const bool any = std::any_of(saved.begin(), saved.end(), [](auto byte) { return byte != 0; });
  if (any) old_.discard(next_, count);
}

void SnapshotInPlace::put_page(std::uint32_t page, bool saved, std::span<std::uint8_t> out) {
  if (passed_ < overlay_.size() && overlay_[passed_].first == page) {
    batches_.read(page, overlay_[passed_++].second, out);
  } else if (page == wal::lock_byte_page(at_.page_size)) {
    std::fill(out.begin(), out.end(), std::uint8_t{0});
  } else if (saved) {
    old_.read(page, out);
  }
}

Proof SnapshotInPlace::prove() {
  auto proof = Proof::not_exact;
  try {
    proof = database_.prove_in_place(old_, begun_);
  } catch (const std::system_error& e) {
    lose(e.what());
  }
  exact_ = proof == Proof::exact;
  return proof;
}

bool SnapshotInPlace::outgrown() const noexcept {
  try {
    return old_.outgrown();
  } catch (const std::system_error&) {
    return false;
  }
}

void SnapshotInPlace::explain() const {
  if (!outgrown()) return;
  throw Error(
      "what is overwritten while a snapshot is written takes more than outbox-max-size leaves; "
      "raise it");
}

// Not the replica's error: a local copy can be made.
void SnapshotInPlace::lose(const char* why) {
  lost_ = true;
  log::warn(std::string("a snapshot needs a local copy: ") + why, {{"db", database_.path()}});
}

}  // namespace sqlstream
