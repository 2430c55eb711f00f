#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "store/settings.h"

namespace sqlstream {

/// One place a database is shipped to.
struct ReplicaSettings {
  std::string name;  ///< as in Litestream: given, else the type ("s3", "file")
  StoreSettings store;
  std::chrono::nanoseconds sync_interval = std::chrono::seconds(1);
  std::uint64_t adaptive = 0;  ///< PUTs a day, for which the sync interval is stretched; 0: any
  std::chrono::nanoseconds retention = std::chrono::hours(24);  ///< 0: nothing is deleted
  std::chrono::nanoseconds retention_check_interval = std::chrono::hours(1);
  std::optional<std::chrono::nanoseconds> snapshot_interval;
  std::optional<std::chrono::nanoseconds> validation_interval;  ///< empty: never
  bool compaction = true;  ///< fold many small segments into fewer, for a restore
  bool exclusive = false;  ///< refuse where another wrote within the retention (see guard.h)
};

/// What a commit that waits is waited for.
struct SyncTerms {
  bool any = false;   ///< one replica is enough; else all
  bool fail = false;  ///< after a wait in vain writes are refused; else commits do not wait
};

/// One replicated database.
struct DatabaseSettings {
  std::string path;  ///< canonical, absolute
  std::vector<ReplicaSettings> replicas;
  std::string outbox_dir;             ///< empty: ".<name>-sqlstream" beside the database
  std::uint64_t outbox_max_size = 0;  ///< bytes; 0: the larger of 1 GiB and twice the database
  std::chrono::nanoseconds shutdown_timeout = std::chrono::seconds(5);
  /// The synchronous mode: how long a commit waits for the replicas; 0: it does not.
  std::chrono::milliseconds sync{0};
  SyncTerms sync_terms;
  /// Snapshots need no local copy, unless programs without the VFS checkpoint, too.
  bool snapshots_in_place = true;
  bool restore_if_missing = false;              ///< before it is created, restore it
  std::optional<ReplicaSettings> restore_from;  ///< … from here; else from the replicas
  /// Of the WAL, for `sqlstream replicate`: from where on it is checkpointed, and from where on
  /// writers are held off meanwhile.
  std::uint32_t min_checkpoint_pages = 1000;
  std::uint32_t max_checkpoint_pages = 10000;
};

}  // namespace sqlstream
