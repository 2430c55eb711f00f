#include "shipper/overview.h"

#include <algorithm>
#include <sys/stat.h>
#include <thread>

#include "base/error.h"
#include "capture/glance.h"
#include "shipper/batch.h"
#include "shipper/replica_note.h"

namespace sqlstream {
namespace {

using capture::Glance;
using std::chrono::nanoseconds;

// A commit is captured some ms later: that alone is no lag.
constexpr int kLooks = 20;
constexpr auto kBetween = std::chrono::milliseconds(50);

Time to_time(std::int64_t ns) {
  return Time(nanoseconds(ns));
}

bool is_empty(const std::string& database) {
  struct stat st {};
  return ::stat(database.c_str(), &st) == 0 && st.st_size == 0 &&
         (::stat((database + "-wal").c_str(), &st) != 0 || st.st_size == 0);
}

// What the outbox says now, and whether the database has more.
struct Look {
  std::optional<Glance> glance;
  bool more = false;
};

Look look_at(const DatabaseSettings& settings, const std::string& outbox) {
  Look look;
  for (int i = 0; i < kLooks; ++i) {
    look.glance = capture::glance_at(outbox);
    if (!look.glance || !look.glance->tail) break;
    look.more = !look.glance->alive || capture::has_more_than(*look.glance->tail, settings.path);
    if (!look.more || !look.glance->shipping) break;
    std::this_thread::sleep_for(kBetween);
  }
  return look;
}

std::optional<nanoseconds> lag_of(const ReplicaOverview& replica, const Look& look,
                                  const std::string& outbox, const std::string& database) {
  if (!look.glance || !look.glance->tail) {
    if (is_empty(database)) return nanoseconds(0);
    return std::nullopt;
  }
  const capture::Tail& tail = *look.glance->tail;
  Time since = to_time(tail.last.last_commit);
  if (replica.generation != tail.generation || replica.sequence < tail.last.sequence) {
    const auto& tail = look.glance->tail->last;
    since = first_commit_behind(outbox, look.glance->log_files, replica.sequence, tail.sequence)
                .value_or(to_time(tail.first_commit));
  } else if (!look.more) {
    return nanoseconds(0);
  }
  if (since > now()) {
    // By a clock that was ahead then, and was set right.
    since = to_time(look.glance->written);
    if (!replica.error.empty()) since = std::min(since, replica.error_since);
  }
  return std::max(now() - since, nanoseconds(1));
}

ReplicaOverview overview_of(const ReplicaSettings& settings, const std::string& outbox) {
  ReplicaOverview replica;
  replica.name = settings.name;
  replica.url = settings.store.url();
  const auto note = load_replica_note(replica_note_path(outbox, settings.store.place()));
  if (!note) return replica;
  if (note->end) {
    replica.generation = note->end->generation;
    replica.position = note->end->position;
    replica.sequence = note->end->sequence;
  }
  replica.snapshot = note->snapshot_time;
  replica.error = note->error;
  replica.error_since = note->error_since;
  replica.validation = note->validation;
  replica.pid = note->pid;
  replica.sqlite = note->sqlite;
  return replica;
}

}  // namespace

DatabaseOverview overview_of(const DatabaseSettings& settings) {
  DatabaseOverview overview;
  overview.path = settings.path;
  struct stat st {};
  const bool exists = ::stat(settings.path.c_str(), &st) == 0;
  const std::string outbox =
      exists ? capture::OutboxPlace::of(settings.path, settings.outbox_dir).directory : "";
  const Look look = exists ? look_at(settings, outbox) : Look{};
  if (exists) overview.state = DatabaseOverview::State::waiting;
  if (look.glance) {
    overview.outbox_bytes = look.glance->bytes;
    overview.shipping = look.glance->shipping;
    if (look.glance->tail) overview.last_commit = to_time(look.glance->tail->last.last_commit);
    if (look.glance->tail && look.glance->alive) {
      overview.state = DatabaseOverview::State::replicating;
    }
    const std::uint32_t left_wal = look.glance->left_wal;
    if (left_wal != 0 && left_wal == capture::file_tag(settings.path)) {
      overview.state = DatabaseOverview::State::paused;
    }
  }
  for (const ReplicaSettings& each : settings.replicas) {
    ReplicaOverview& replica = overview.replicas.emplace_back(overview_of(each, outbox));
    if (exists) replica.lag = lag_of(replica, look, outbox, settings.path);
  }
  // The mark of a process that died may still be there.
  const bool all_there =
      std::all_of(overview.replicas.begin(), overview.replicas.end(),
                  [](const auto& replica) { return replica.lag == nanoseconds(0); });
  if (overview.state == DatabaseOverview::State::replicating && look.glance->behind != 0 &&
      !all_there) {
    overview.state = DatabaseOverview::State::degraded;
    overview.degraded_since = to_time(look.glance->behind);
  }
  return overview;
}

const char* name_of(DatabaseOverview::State state) {
  switch (state) {
    case DatabaseOverview::State::unknown:
      return "unknown";
    case DatabaseOverview::State::missing:
      return "no database";
    case DatabaseOverview::State::waiting:
      return "waiting";
    case DatabaseOverview::State::replicating:
      return "replicating";
    case DatabaseOverview::State::degraded:
      return "degraded";
    case DatabaseOverview::State::paused:
      return "paused";
  }
  return "";
}

}  // namespace sqlstream
