#include "shipper/maintenance.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "shipper/replicator.h"
#include "shipper/retention.h"
#include "shipper/snapshot_upload.h"

namespace sqlstream {
namespace {

// Replaying more than this many times a snapshot's bytes costs more than another snapshot.
constexpr std::uint64_t kWorth = 4;
constexpr std::uint64_t kLeastBytes = 64ULL << 20;
constexpr auto kRest = std::chrono::milliseconds(100);
constexpr auto kImpossible = std::chrono::seconds(10);  // nobody here has the database open
constexpr auto kFirstPause = std::chrono::seconds(10);
constexpr auto kLongestPause = std::chrono::minutes(10);
constexpr auto kStaleUpload = std::chrono::hours(24);

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

Maintenance::Maintenance(Replicator& replicator)
    : replicator_(replicator), signal_(Engine::get().executor()) {}

std::optional<Time> Maintenance::snapshot_due() const {
  const auto& settings = replicator_.settings();
  const auto& note = replicator_.note();
  return SnapshotRule{settings.snapshot_interval, settings.retention}.due(
      note.snapshot_time, note.snapshot_size, note.bytes_since_snapshot);
}

std::optional<Time> Maintenance::retention_due() const {
  const Time due = replicator_.note().retention_due;
  if (due == Time{} || replicator_.settings().retention.count() <= 0) return std::nullopt;
  return due;
}

asio::awaitable<void> Maintenance::run() {
  std::chrono::nanoseconds pause = kFirstPause;
  while (!replicator_.stopping()) {
    const auto snapshot = snapshot_due();
    const auto retention = retention_due();
    // A store that is away gets no further requests.
    if (!replicator_.shipping() || (!snapshot && !retention)) {
      co_await signal_.wait();
      continue;
    }
    const Time next = std::max(
        std::min(snapshot.value_or(Time::max()), retention.value_or(Time::max())), not_before_);
    const Time time = now();
    if (time < next) {
      co_await signal_.wait_until(std::chrono::steady_clock::now() + (next - time));
      continue;
    }
    std::string error;
    try {
      not_before_ = time + kRest;
      if (snapshot && (!retention || *snapshot <= *retention)) {
        co_await write_snapshot();
      } else {
        co_await enforce_retention();
      }
      pause = kFirstPause;
    } catch (const std::exception& e) {
      error = e.what();
    }
    if (error.empty()) {
      last_error_.clear();
      continue;
    }
    // Once, however often it is tried.
    if (std::exchange(last_error_, error) != error) {
      log::warn("maintenance failed: " + error,
                {{"db", replicator_.database().path()}, {"replica", replicator_.settings().name}});
    }
    replicator_.hold(false);
    replicator_.database().keep_from(replicator_.number(), UINT64_MAX);
    not_before_ = now() + pause;
    pause = std::min<std::chrono::nanoseconds>(pause * 2, kLongestPause);
  }
}

asio::awaitable<void> Maintenance::write_snapshot() {
  auto& database = replicator_.database();
  const auto generation = replicator_.shipping();
  const auto tail = database.tail();
  const std::function<bool()> wanted = [&] {
    return !replicator_.stopping() && database.generation_alive();
  };
  // The outbox may be of another generation already.
  if (!generation || !tail || tail->generation != *generation) co_return;

  std::unique_ptr<SnapshotCopy> copy;
  {
    // What it needs is in the replica already, and would be deleted.
    database.keep_from(replicator_.number(), tail->wal_first);
    const auto reading = co_await replicator_.begin_reading();
    copy = co_await begin_snapshot(database, replicator_.number(), wanted);
    if (copy != nullptr) {
      replicator_.hold(true);
      const bool ended = co_await on_worker([&] { return copy->end(); });
      if (ended && copy->generation() == *generation) {
        replicator_.roll_behind(copy->at().sequence);
      } else {
        copy.reset();
      }
      replicator_.hold(false);
    }
    if (copy != nullptr) co_await on_worker([&] { copy->apply(); });
    database.keep_from(replicator_.number(), UINT64_MAX);
  }
  if (copy == nullptr) {
    not_before_ = now() + kImpossible;
    co_return;
  }
  while (replicator_.rolling() && wanted()) co_await signal_.wait();
  const auto index = replicator_.rolled();
  if (!index || !wanted()) co_return;

  const Metadata metadata = replicator_.snapshot_metadata(*copy);
  auto& note = replicator_.note();
  const std::uint64_t bytes_before = note.bytes_since_snapshot;
  const auto stored = co_await upload_snapshot(replicator_.store(), *copy, *index, metadata,
                                               replicator_.settings().name, wanted);
  if (!stored) co_return;
  note.bytes_since_snapshot -= std::min(bytes_before, note.bytes_since_snapshot);
  replicator_.snapshot_written(*stored);
  co_await replicator_.save_note();
}

asio::awaitable<void> Maintenance::enforce_retention() {
  auto& store = replicator_.store();
  auto& note = replicator_.note();
  const auto& settings = replicator_.settings();
  const auto generation = replicator_.shipping();
  if (!generation) co_return;
  std::vector<GenerationObjects> objects;
  for (const Generation one : co_await replica::list_generations(store)) {
    GenerationObjects all;
    all.generation = one;
    all.snapshots = co_await replica::list_snapshots(store, one);
    all.segments = co_await replica::list_segments(store, one);
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
  const Time cutoff = now() - settings.retention;
  auto keys = expired_keys(objects, *generation, cutoff);
  const auto count = keys.size();
  if (count > 0) {
    co_await store.remove(std::move(keys));
    log::info("retention enforced", {{"db", replicator_.database().path()},
                                     {"replica", settings.name},
                                     {"deleted", std::to_string(count)}});
  }
  co_await store.abort_stale_uploads("generations/", kStaleUpload);
  // Not more often than asked for; never again while nothing of what is there expires.
  note.retention_due = Time{};
  const auto next = next_cutoff(objects, *generation, cutoff);
  if (next) {
    const auto at_least = now() + std::max<std::chrono::nanoseconds>(
                                      settings.retention_check_interval, std::chrono::seconds(1));
    note.retention_due = std::max(*next + settings.retention, at_least);
  }
  co_await replicator_.save_note();
}

}  // namespace sqlstream
