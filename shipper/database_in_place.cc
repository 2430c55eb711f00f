#include <exception>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "shipper/database_parts.h"

namespace sqlstream {

std::optional<Database::InPlace> Database::begin_in_place() {
  const std::lock_guard lock(capture_mutex_);
  if (making_in_place_.load() || !open_outbox()) return std::nullopt;
  const auto outbox_lock = outbox_->lock(kSoon * 10);
  if (!outbox_lock) return std::nullopt;
  outbox_->refresh();
  if (!outbox_->generation_alive() || !is_outbox_there()) return std::nullopt;
  auto pages = outbox_->begin_snapshot();
  if (!pages) return std::nullopt;
  making_in_place_.store(true);
  publish();
  return InPlace{std::move(*pages), *outbox_->tail()};
}

// Each look comes after what it is to prove: the pages were read, then this.
Database::Proof Database::prove_in_place(const capture::OldPages& pages, const capture::Tail& at) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const Sight seen = see();
  const auto known = tail();
  if (!generation_alive() || !known || known->generation != at.generation ||
      snapshot_in_place() != pages.shape().id) {
    return Proof::not_exact;
  }
  const auto look = look_at_wal_index();
  const capture::Announcement announced = pages.announced();
  if (pages.is_void()) return Proof::not_exact;
  if (seen == Sight::none || announced.open) return Proof::not_yet;
  const capture::Record& last = known->last;
  if (!look) {
    const bool closed = last.identity.inode != 0 && capture::identify(path()) == last.identity;
    return closed && announced.covers(last.source) ? Proof::exact : Proof::unseen;
  }
  if (seen != Sight::wal_index) return Proof::not_yet;  // that came after the capture
  const auto& [header, progress] = *look;
  // A WAL that began anew and has no commit yet is no record's.
  const bool same_wal = header.salt == last.source.salt;
  if (!same_wal && header.frames != 0) return Proof::not_yet;
  if (!same_wal && !announced.covers(last.source)) return Proof::unannounced;
  const std::uint32_t attempted = std::max(progress.done, progress.begun);
  return attempted <= announced.reached(header.salt) ? Proof::exact : Proof::unannounced;
}

std::optional<Database::Look> Database::look_at_wal_index() {
  const std::lock_guard pinned(mapping_mutex_);
  const Mapping* current = current_mapping();
  if (current == nullptr || current->regions.empty() || is_moved(current->file))
    return std::nullopt;
  const volatile void* region0 = current->regions[0];
  Look look;
  look.progress = {UINT32_MAX, UINT32_MAX};
  const auto before = capture::read_wal_index_header(region0);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const auto progress = capture::read_checkpoint_progress(region0);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const auto after = capture::read_wal_index_header(region0);
  // Else what is read is of no one WAL: look again.
  if (before && after && before->salt == after->salt) look = {*after, progress};
  return look;
}

void Database::end_in_place() noexcept {
  try {
    if (is_outbox_there()) capture::OldPages::remove(outbox_directory());
  } catch (const std::bad_alloc&) {  // trim() does it
  }
  making_in_place_.store(false);
}

// Precondition: capture_mutex_ is held, and this process has the role.
void Database::tidy_up_snapshot() {
  if (outbox_->control().snapshot == 0 || making_in_place_.load()) return;
  const auto lock = outbox_->lock(kSoon * 10);
  if (!lock) return;
  outbox_->refresh();
  outbox_->end_snapshot();
  publish();
}

}  // namespace sqlstream
