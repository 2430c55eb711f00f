#include "shipper/maintenance.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "format/names.h"
#include "shipper/backoff.h"
#include "shipper/guard.h"
#include "shipper/replicator.h"
#include "shipper/retention.h"
#include "shipper/snapshot_upload.h"

namespace sqlstream {
namespace {

using std::chrono::steady_clock;

constexpr auto kRest = std::chrono::milliseconds(100);
constexpr auto kFirstPause = std::chrono::seconds(10);
constexpr auto kLongestPause = std::chrono::minutes(10);
constexpr auto kLongestRest = std::chrono::hours(1);
constexpr auto kStaleUpload = std::chrono::hours(24);

log::Fields fields_of(Replicator& replicator) {
  return {{"db", replicator.database().path()}, {"replica", replicator.settings().name}};
}

// Its first snapshot says it, and will be deleted. Where that cannot be read, other than for the
// moment, it is not known any more, and times tell which generation is newer.
asio::awaitable<std::optional<GenerationEnd>> begun_behind(Store& store, Generation generation) {
  try {
    const auto snapshots = co_await replica::list_snapshots(store, generation);
    if (snapshots.empty()) co_return std::nullopt;
    const auto metadata = co_await replica::read_metadata(
        store, names::snapshot_key(generation, snapshots.front().index));
    if (metadata) co_return metadata->after;
  } catch (const StoreError& e) {
    using Kind = StoreError::Kind;
    if (e.kind() == Kind::unavailable || e.kind() == Kind::unreachable) throw;  // it is tried again
  } catch (const Error&) {
  }
  co_return std::nullopt;
}

}  // namespace

std::optional<Time> SnapshotRule::due(Time last_snapshot, std::uint64_t snapshot_size,
                                      std::uint64_t bytes_since) const {
  if (bytes_since == 0) return std::nullopt;
  if (bytes_since > std::max(kLeastBytes, kWorth * snapshot_size)) return last_snapshot;
  std::optional<Time> when;
  if (retention.count() > 0) when = last_snapshot + retention;
  if (interval && interval->count() > 0) {
    const Time asked = last_snapshot + *interval;
    if (!when || asked < *when) when = asked;
  }
  return when;
}

Time SnapshotRule::again(Time due, Time tried) {
  if (tried < due) return due;
  return tried + std::min<std::chrono::nanoseconds>((tried - due) / 4, kLongestRest);
}

Maintenance::Maintenance(Replicator& replicator)
    : replicator_(replicator),
      deletion_(replicator.store(), fields_of(replicator)),
      compaction_(replicator.store(), deletion_, fields_of(replicator)),
      signal_(Engine::get().executor()),
      tried_before_(replicator.note().snapshot_tried) {}

// The old generation's last segments stay as they are: who folded them would write behind the new
// one's snapshot.
bool Maintenance::compaction_due() const {
  const bool due = compaction_.due() || (replicator_.note().unfolded >= CompactionPlan::kSegments &&
                                         compaction_.unknown());
  return replicator_.settings().compaction && due &&
         replicator_.shipping() == compaction_.generation();
}

std::optional<Time> Maintenance::snapshot_due() const {
  const auto& settings = replicator_.settings();
  const auto& note = replicator_.note();
  const auto due = SnapshotRule{settings.snapshot_interval, settings.retention}.due(
      note.snapshot_time, note.snapshot_size, note.bytes_since_snapshot);
  if (!due) return due;
  return SnapshotRule::again(*due, tried_before_);
}

std::optional<Time> Maintenance::retention_due() const {
  const Time due = replicator_.note().retention_due;
  if (due == Time{} || replicator_.settings().retention.count() <= 0) return std::nullopt;
  return due;
}

// What was noted may lie in the future, if the clock was set back since.
void Maintenance::set_clock_right() {
  auto& note = replicator_.note();
  const auto& settings = replicator_.settings();
  const Time time = now();
  note.snapshot_time = std::min(note.snapshot_time, time);
  note.snapshot_tried = std::min(note.snapshot_tried, time);
  tried_before_ = std::min(tried_before_, time);
  if (settings.retention.count() <= 0) return;
  const auto latest = settings.retention + settings.retention_check_interval;
  note.retention_due = std::min(note.retention_due, time + latest);
}

void Maintenance::announce() {
  const Time time = now();
  const bool due = snapshot_due().value_or(Time::max()) <= time ||
                   retention_due().value_or(Time::max()) <= time || compaction_due();
  if (due && !tidying_) tidying_.emplace(replicator_.database());
}

asio::awaitable<void> Maintenance::run() {
  Backoff backoff(kFirstPause, kLongestPause);
  while (!replicator_.stopping()) {
    set_clock_right();
    const auto snapshot = snapshot_due();
    const auto retention = retention_due();
    const bool compaction = compaction_due();
    // A store that is away gets no further requests. What is not possible now (nobody here has the
    // database open) is when more is shipped.
    if (!replicator_.shipping() || (!snapshot && !retention && !compaction) || impossible_) {
      impossible_ = false;
      tidying_.reset();
      co_await signal_.wait();
      continue;
    }
    const Time other = std::min(snapshot.value_or(Time::max()), retention.value_or(Time::max()));
    // There is always something to fold where much is shipped: what is due goes before it.
    const bool fold = compaction && other > now();
    const Time due = fold ? now() : other;
    const auto time = steady_clock::now();
    const auto next = std::max(time + (due - now()), not_before_);
    if (time < next) {
      tidying_.reset();
      co_await signal_.wait_until(next);
      continue;
    }
    std::string error;
    try {
      not_before_ = time + kRest;
      if (!tidying_) tidying_.emplace(replicator_.database());
      if (fold) {
        co_await compact();
      } else if (snapshot && (!retention || *snapshot <= *retention)) {
        co_await write_snapshot();
      } else {
        co_await enforce_retention();
      }
      backoff.reset();
    } catch (const std::exception& e) {
      error = text_of(e);
    }
    if (std::exchange(writing_, false)) {
      replicator_.notify();
      replicator_.database().reconsider_role();
    }
    if (!error.empty()) replicator_.hold(false);
    if (error.empty()) {
      last_error_.clear();
      continue;
    }
    // Once, however often it is tried.
    if (std::exchange(last_error_, error) != error) {
      log::warn("maintenance failed: " + error, fields_of(replicator_));
    }
    co_await release_outbox();
    not_before_ = steady_clock::now() + backoff.next();
  }
  tidying_.reset();
}

asio::awaitable<void> Maintenance::compact() {
  const std::function<bool()> wanted = [this, generation = compaction_.generation()] {
    return !replicator_.stopping() && replicator_.shipping() == generation;
  };
  // Before: what no process has the time for is not tried by each of them.
  if (std::exchange(replicator_.note().unfolded, 0) >= CompactionPlan::kSegments) {
    co_await replicator_.save_note();
  }
  const auto written = co_await compaction_.run(wanted);
  if (written > 0) replicator_.spent(written);
}

asio::awaitable<void> Maintenance::write_snapshot() {
  auto& database = replicator_.database();
  const auto generation = replicator_.shipping();
  const auto tail = database.tail();
  // The outbox may be of another generation already.
  if (!generation || !tail || tail->generation != *generation) co_return;
  writing_ = true;
  const auto image = co_await begin_image(*generation);
  if (image == nullptr) {
    impossible_ = true;
    if (database.generation_alive() && !database.has_mapping()) database.cannot_see();
    co_return;
  }
  replicator_.note().snapshot_tried = now();  // saved with the end of the index
  // A snapshot that lands when another generation has begun would pass for newer than that one.
  const std::function<bool()> wanted = [&] {
    const auto known = database.tail();
    return !replicator_.stopping() && database.generation_alive() && known &&
           known->generation == *generation;
  };
  while (replicator_.rolling() && wanted()) co_await signal_.wait();
  const auto index = replicator_.rolled();
  if (!index || !wanted()) {
    impossible_ = true;
    co_return;
  }

  auto& note = replicator_.note();
  const std::uint64_t bytes_before = note.bytes_since_snapshot;
  const auto stored = co_await upload(*image, *index, wanted);
  if (!stored) co_return;
  note.bytes_since_snapshot -= std::min(bytes_before, note.bytes_since_snapshot);
  replicator_.snapshot_written(*stored);
  co_await replicator_.save_note();
  // There is no other occasion where nothing ever expires.
  if (replicator_.settings().retention.count() <= 0) co_await abort_stale_uploads();
}

// The stored bytes; empty: it is not in the replica.
asio::awaitable<std::optional<std::uint64_t>> Maintenance::upload(
    SnapshotImage& image, std::uint32_t index, const std::function<bool()>& wanted) {
  Metadata metadata = replicator_.snapshot_metadata(image);
  metadata.after = co_await begun_behind(replicator_.store(), image.generation());
  bool hides = false;
  const MayLand land = [&]() -> asio::awaitable<bool> {
    hides = !co_await replicator_.ends_as_known(image.generation());
    co_return !hides;
  };
  try {
    const auto stored = co_await upload_snapshot(replicator_.store(), image, index, metadata,
                                                 replicator_.settings().name, wanted, land);
    if (!hides) co_return stored;
  } catch (const StoreError& e) {
    if (e.kind() != StoreError::Kind::exists) throw;
  }
  if (!hides) co_return co_await find_own(image, index);
  co_await give_up("another program writes this generation to the replica, too",
                   image.generation());
  co_return std::nullopt;
}

asio::awaitable<void> Maintenance::abort_stale_uploads() {
  return deletion_.abort_stale_uploads("generations/", kStaleUpload);
}

// It exists: from an upload whose answer was lost, or whose process died, since what an index
// begins with does not change; or a copy of this machine wrote it, of what happened there.
asio::awaitable<std::optional<std::uint64_t>> Maintenance::find_own(const SnapshotImage& image,
                                                                    std::uint32_t index) {
  const Generation generation = image.generation();
  auto& store = replicator_.store();
  std::optional<Metadata> there;
  try {
    there = co_await replica::read_metadata(store, names::snapshot_key(generation, index));
  } catch (const DamagedMetadata&) {
    // It is of no use to anybody.
  }
  if (!there || there->last_sequence != image.at().sequence || there->chain != image.at().chain) {
    co_await give_up("the replica holds another snapshot of this generation", generation);
    co_return std::nullopt;
  }
  for (const auto& snapshot : co_await replica::list_snapshots(store, generation)) {
    if (snapshot.index == index) co_return snapshot.size;
  }
  co_return std::nullopt;
}

asio::awaitable<void> Maintenance::give_up(const char* why, Generation generation) {
  auto& database = replicator_.database();
  co_await on_worker([&] { database.give_up(why, generation); });
  database.wake();
}

// The state at the end of a batch, behind which the index is to end; null when that is not possible
// now.
asio::awaitable<std::unique_ptr<SnapshotImage>> Maintenance::begin_image(Generation generation) {
  auto& database = replicator_.database();
  const auto tail = database.tail();
  if (!tail) co_return nullptr;
  room_wanted_ = false;
  std::unique_ptr<SnapshotImage> image;
  {
    // What it needs is in the replica already, and would be deleted.
    database.keep_from(replicator_.number(), tail->wal_first);
    const auto reading = co_await replicator_.begin_reading(signal_);
    image = co_await image_in_place(generation);
    if (image == nullptr) image = co_await copy_database(generation);
  }
  co_await release_outbox();
  if (image == nullptr && room_wanted_) {
    throw Error("the outbox is filling while a snapshot is copied; raise outbox-max-size");
  }
  co_return image;
}

asio::awaitable<std::unique_ptr<SnapshotImage>> Maintenance::image_in_place(Generation generation) {
  replicator_.hold(true);
  auto image = co_await begin_in_place(replicator_.database());
  if (image != nullptr && image->generation() == generation) {
    replicator_.roll_behind(image->at().sequence);
  } else {
    image.reset();
  }
  replicator_.hold(false);
  co_return image;
}

asio::awaitable<std::unique_ptr<SnapshotImage>> Maintenance::copy_database(Generation generation) {
  auto& database = replicator_.database();
  const std::function<bool()> wanted = [&] {
    return !replicator_.stopping() && database.generation_alive() && !room_wanted_;
  };
  auto copy = co_await begin_snapshot(database, replicator_.number(), wanted);
  if (copy == nullptr) co_return nullptr;
  replicator_.hold(true);
  const bool ended = co_await on_worker([&] { return copy->end(); });
  if (ended && copy->generation() == generation) {
    replicator_.roll_behind(copy->at().sequence);
  } else {
    copy.reset();
  }
  replicator_.hold(false);
  if (copy != nullptr) co_await on_worker([&] { copy->apply(); });
  co_return copy;
}

// And what was held back alone for a snapshot is deleted, which may be all that a full outbox
// waits for.
asio::awaitable<void> Maintenance::release_outbox() {
  auto& database = replicator_.database();
  database.keep_from(replicator_.number(), UINT64_MAX);
  try {
    co_await on_worker([&] { database.trim(); });
  } catch (const std::exception& e) {
    log::warn(e.what(), {{"db", database.path()}});
  }
}

// The present by the store's clock, or earlier: this host's may be wrong, and what is deleted for
// it is gone.
Time Maintenance::store_time(const std::vector<GenerationObjects>& objects) const {
  return std::min(now(), last_written(objects) + replicator_.since_last_write());
}

// By its newest object. What cannot be read says nothing.
asio::awaitable<bool> Maintenance::is_of_neighbour(const GenerationObjects& objects) {
  const auto newest = newest_of(objects.generation, objects.snapshots, objects.segments);
  if (newest.key.empty()) co_return false;
  try {
    const auto metadata = co_await replica::read_metadata(replicator_.store(), newest.key);
    co_return metadata&& is_neighbours(*metadata, replicator_.writer());
  } catch (const StoreError& e) {
    if (e.kind() != StoreError::Kind::not_found) throw;
  } catch (const Error&) {
  }
  co_return false;
}

asio::awaitable<void> Maintenance::enforce_retention() {
  auto& store = replicator_.store();
  auto& note = replicator_.note();
  const auto& settings = replicator_.settings();
  const auto generation = replicator_.shipping();
  if (!generation) co_return;
  const auto rest = std::max<std::chrono::nanoseconds>(settings.retention_check_interval,
                                                       std::chrono::seconds(1));
  // Noted before, as for compaction.
  note.retention_due = now() + rest;
  co_await replicator_.save_note();
  std::vector<GenerationObjects> objects;
  for (const Generation one : co_await replica::list_generations(store)) {
    GenerationObjects all;
    all.generation = one;
    all.snapshots = co_await replica::list_snapshots(store, one);
    all.segments = co_await replica::list_segments(store, one);
    all.compacted = co_await replica::list_compacted(store, one);
    // It has not ended because this one goes on: its database may only be quiet.
    if (one != *generation && co_await is_of_neighbour(all)) continue;
    objects.push_back(std::move(all));
  }
  const bool there = std::any_of(objects.begin(), objects.end(), [&](const auto& one) {
    return one.generation == *generation && !one.snapshots.empty();
  });
  if (!there) {
    // Somebody deleted it: shipping finds that out for itself, and begins anew.
    replicator_.look_again();
    co_return;
  }
  const Time present = store_time(objects);
  const Time cutoff = present - settings.retention;
  auto keys = expired_keys(objects, *generation, cutoff);
  const auto count = keys.size();
  if (count > 0) {
    const bool done = co_await deletion_.remove(std::move(keys));
    if (done) {
      log::info("retention enforced", {{"db", replicator_.database().path()},
                                       {"replica", settings.name},
                                       {"deleted", std::to_string(count)}});
    }
  }
  co_await abort_stale_uploads();
  // Not more often than asked for; never again while nothing of what is there expires.
  note.retention_due = Time{};
  const auto next = next_cutoff(objects, *generation, cutoff);
  if (next) {
    note.retention_due =
        std::max<Time>(now() + (*next + settings.retention - present), now() + rest);
  }
  co_await replicator_.save_note();
}

}  // namespace sqlstream
