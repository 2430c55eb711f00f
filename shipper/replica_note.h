#pragma once

#include <optional>
#include <string>
#include <sys/types.h>

#include "base/clock.h"
#include "capture/outbox.h"
#include "shipper/batch.h"
#include "shipper/put_budget.h"

namespace sqlstream {

/// What the validations of a replica found.
struct ValidationState {
  Time last{};        ///< when the last one ended; before the first: since when it is waited for
  Time verified{};    ///< when the last good one ended; 0: none yet
  std::string error;  ///< why the last one failed; empty: it did not
  Time error_since{};
};

/// What the process that ships notes in the outbox of one replica: where it ends, which saves
/// listing it from its beginning, and what others want to know of the progress. A hint: without it,
/// or when a crash of the machine took it, the store is asked.
struct ReplicaNote {
  std::optional<ReplicaEnd> end;           ///< empty: not known, only an error is
  std::uint64_t in_flight = 0;             ///< last batch of a write, the first snapshot's too,
                                           ///< whose answer is awaited; or 0
  Time commit_time{};                      ///< of the replica's last commit
  Time snapshot_time{};                    ///< when the newest snapshot was written
  Time snapshot_tried{};                   ///< when a later snapshot was last begun
  std::uint64_t snapshot_size = 0;         ///< stored bytes
  std::uint64_t bytes_since_snapshot = 0;  ///< stored bytes of the segments behind it
  std::uint32_t unfolded = 0;              ///< segments written since compaction last looked
  std::uint32_t others = 0;                ///< names_of_others() when nobody else was seen to write
                                           ///< to the replica; 0: somebody was, or nobody looked
  Time retention_due{};                    ///< when something may be deleted next
  std::string error;                       ///< of the store, as last seen; empty: none
  Time error_since{};
  ValidationState validation;
  PutBudget budget;        ///< counts only where the settings bound it
  pid_t pid = 0;           ///< of the process that wrote this
  int sqlite = 0;          ///< its SQLite's version, as sqlite3_libversion_number(); 0: not known
  std::uint64_t boot = 0;  ///< boot_hash() when the end was last proven to be the replica's
  /// Its host and the database's path: an outbox that was copied along with a database is not ours.
  std::string writer;
};

/// Names this start of the machine: what was not fsynced outlives no other. 0: it is not known.
std::uint64_t boot_hash();
/// False also where it is not known.
bool is_this_boot(std::uint64_t hash);

/// Where the note of the replica at `place`, see StoreSettings, is in that outbox directory.
std::string replica_note_path(const std::string& outbox, const std::string& place);
/// Empty when there is none, or it is torn. Takes no lock.
std::optional<ReplicaNote> load_replica_note(const std::string& path);
/// One write, of a file as open as the database. False when it could not be written. Long texts are
/// cut. Throws Error when the file is missing, and the database, too.
bool save_replica_note(const std::string& path, const std::string& database,
                       const ReplicaNote& note);

}  // namespace sqlstream
