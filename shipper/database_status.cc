#include <algorithm>
#include <system_error>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "shipper/database_parts.h"
#include "shipper/source_file.h"
#include "shipper/sqlite_version.h"

namespace sqlstream {
namespace {

constexpr auto kNoteDue = std::chrono::seconds(5);  // who ships has a note of each replica by then

}  // namespace

std::string Database::status_json(std::chrono::milliseconds sync, SyncTerms terms, bool moved,
                                  bool seen) {
  // What is found here was committed without this process, or before its background looked.
  auto found = capture_in_background();
  if (found == capture::Outcome::try_again) found = capture_in_background();
  if (found == capture::Outcome::captured) wake();
  moved |= moved_.load();
  is_behind(terms.any);
  std::uint64_t outbox_bytes = 0;
  bool left = false;
  std::vector<std::uint64_t> files;
  {
    std::unique_lock lock(capture_mutex_, std::defer_lock);
    if (lock.try_lock_for(kLongestWait)) {
      left = has_left_wal();
      try {
        if (outbox_) {
          outbox_bytes = outbox_->size();
          files = outbox_->log_files();
        }
      } catch (const std::system_error&) {  // its error says so
      }
    }
  }
  const std::string outbox = outbox_directory();
  std::vector<std::optional<Time>> since;
  for (std::size_t i = 0; i < settings_.replicas.size(); ++i) {
    since.push_back(missing_since(i, files));
  }
  const std::lock_guard lock(status_mutex_);
  JsonObject json;
  json.add("db", path());
  const bool paused = moved || left || !obstacle_.empty();
  json.add("state", paused ? "paused" : tail_ && alive_.load() ? "replicating" : "waiting");
  if (tail_) {
    json.add("generation", tail_->generation.str())
        .add("sequence", tail_->last.sequence)
        .add("last_commit", format_rfc3339(to_time(tail_->last.last_commit)));
  }
  json.add("outbox", outbox).add("outbox_bytes", outbox_bytes);
  const int sqlite = host_.api->libversion_number();
  json.add("sqlite", sqlite_version_text(sqlite))
      .add("sqlite_wal_reset_bug", has_wal_reset_bug(sqlite))
      .add("shipping", role_ == Role::shipping   ? "this process"
                       : role_ == Role::watching ? "another process"
                                                 : "none");
  if (moved) {
    json.add("error", kMoved);
  } else if (left) {
    json.add("error",
             "the application chose a journal mode other than WAL; set PRAGMA journal_mode=WAL");
  } else if (!obstacle_.empty()) {
    json.add("error", obstacle_);
  } else if (const auto& error = capture_error_.empty() ? role_error_ : capture_error_;
             !error.empty()) {
    json.add("error", error);
  }
  const auto behind = durability_.behind(terms.any);
  if (sync.count() > 0 || behind) {
    JsonObject mode;
    mode.add("limit_ms", sync.count())
        .add("replicas", terms.any ? "any" : "all")
        .add("policy", terms.fail ? "fail" : "degrade")
        .add("state", !behind && !moved          ? "synchronous"
                      : terms.fail && refusable_ ? "refusing writes"
                                                 : "degraded");
    if (behind) mode.add("since", format_rfc3339(behind->since));
    json.add_json("sync", mode.text());
  }
  std::string replicas;
  for (std::size_t i = 0; i < replica_status_.size(); ++i) {
    replicas += (i == 0 ? "" : ",") + replica_json(i, moved, seen && seen_through(found), since[i]);
  }
  return json.add_json("replicas", '[' + replicas + ']').text();
}

// When the first commit was made that the replica has not, as far as the outbox tells.
std::optional<Time> Database::missing_since(std::size_t number,
                                            const std::vector<std::uint64_t>& files) const noexcept
    try {
  std::uint64_t sequence = 0;
  std::uint64_t last = 0;
  bool noted_by_others = false;
  {
    const std::lock_guard lock(status_mutex_);
    if (!tail_) return std::nullopt;
    sequence = replica_status_[number].sequence;
    last = tail_->last.sequence;
    noted_by_others = role_ != Role::shipping || sequence == 0;
  }
  if (noted_by_others) {
    const auto noted = this->noted(number);
    if (noted && noted->end) sequence = noted->end->sequence;
  }
  if (sequence >= last || files.empty()) return std::nullopt;
  return first_commit_behind(outbox_directory(), files, sequence, last);
} catch (const std::exception&) {
  return std::nullopt;
}

// Precondition: status_mutex_ is held.
std::string Database::replica_json(std::size_t number, bool moved, bool seen,
                                   std::optional<Time> since) const {
  ReplicaStatus status = replica_status_[number];
  const std::string url = settings_.replicas[number].store.url();
  if (role_ != Role::shipping) {
    const auto noted = this->noted(number);
    if (noted && noted->end) {
      status.generation = noted->end->generation;
      status.position = noted->end->position;
      status.sequence = noted->end->sequence;
      status.snapshot_time = noted->snapshot_time;
      status.validation = noted->validation;
    }
    if (noted) {
      status.error = noted->error;
      status.error_since = noted->error_since;
    } else if (role_ == Role::watching && now() > role_since_ + kNoteDue) {
      status.error =
          "the process that ships knows no such replica; give all programs that open this database "
          "the same ones";
      status.error_since = role_since_;
    }
  }
  JsonObject json;
  json.add("name", settings_.replicas[number].name).add("url", url);
  if (status.sequence != 0) {
    json.add("generation", status.generation.str())
        .add("index", status.position.index)
        .add("offset", status.position.offset)
        .add("sequence", status.sequence);
  }
  // Sequences only grow, over generations, too.
  const bool in_sync =
      seen && tail_ && !moved && capture_error_.empty() &&
      ((status.generation == tail_->generation && status.sequence >= tail_->last.sequence) ||
       (alive_.load() && durability_.end_of(number) >= tail_->last.sequence));
  json.add("in_sync", in_sync);
  if (tail_ && !in_sync && !moved) {
    Time first = since.value_or(to_time(tail_->last.first_commit));
    // By a clock that was ahead then, and was set right.
    if (first > now() && !status.error.empty()) first = status.error_since;
    const auto lag = std::chrono::duration_cast<std::chrono::milliseconds>(now() - first).count();
    json.add("lag_ms", std::max<std::int64_t>(0, lag));
  }
  if (status.snapshot_time != Time{}) json.add("snapshot", format_rfc3339(status.snapshot_time));
  if (!status.error.empty()) {
    json.add("error", status.error).add("error_since", format_rfc3339(status.error_since));
  }
  const ValidationState& validation = status.validation;
  if (validation.verified != Time{}) json.add("verified", format_rfc3339(validation.verified));
  if (!validation.error.empty()) {
    json.add("verify_error", validation.error)
        .add("verify_error_since", format_rfc3339(validation.error_since));
  }
  return json.text();
}

}  // namespace sqlstream
