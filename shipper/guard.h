#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "format/metadata.h"
#include "shipper/settings.h"
#include "store/replica.h"

/// The guard against the classic accident: a copy of a database, on another machine or under
/// another path, that replicates over the one it was made from.
namespace sqlstream {

/// Who writes to a replica.
struct Writer {
  std::string host;
  std::string database;  ///< its path there
};

/// The last that was written to a replica.
struct LastWrite {
  Time time{};  ///< the store's
  Generation generation;
  Metadata metadata;
};

/// Why nothing is written to a replica that is another database's.
class AnotherWriter : public Error {
 public:
  AnotherWriter(const std::string& sentence, std::string who)
      : Error(sentence), who_(std::move(who)) {}
  /// The same for as long as it is the same writer, whenever it writes.
  const std::string& who() const { return who_; }

 private:
  std::string who_;
};

/// Whether an object is of another database on the host of `self`: of no predecessor of it, however
/// long ago it was written, and that one may only be quiet. Pure.
bool is_neighbours(const Metadata& metadata, const Writer& self);

/// "was last written … by …" when that was a neighbour, or another host not longer ago than
/// `retention` (0: for ever); else empty. What the metadata leaves out is not compared. Pure.
std::optional<std::string> another_writer(const LastWrite& last, const Writer& self, Time now,
                                          std::chrono::nanoseconds retention);

/// The newest object of a generation; no key: there is none.
struct Newest {
  Time created{};  ///< the store's
  std::string key;
};
Newest newest_of(Generation generation, std::span<const replica::Snapshot> snapshots,
                 std::span<const replica::Segment> segments);

/// What a replica tells of who wrote to it.
struct Writes {
  std::optional<LastWrite> last;  ///< as far as it can be read; empty: nothing tells
  std::string damaged;            ///< the key of the newest object, where its metadata is; or empty
};

/// By the newest object in all generations; `last` is empty when there is none, or it is not
/// sqlstream's. Where it is damaged, by the newest that is not, of each generation's last snapshot
/// and last segment. Two listings for each generation, and one read for each object looked at.
asio::awaitable<Writes> find_last_write(Store& store);

/// Of the generations but `own`: another value as soon as one came or went. Never 0. Pure.
std::uint32_t names_of_others(std::span<const Generation> generations, Generation own);

/// To be called before a process first writes to a replica that it, or the outbox's note, does not
/// know: warns in the log of another writer. Throws AnotherWriter instead where settings.exclusive.
/// That the newest object is damaged is a warning, too: nothing may be known of its writer then.
/// Returns what it found.
asio::awaitable<std::optional<LastWrite>> guard_replica(Store& store,
                                                        const ReplicaSettings& settings,
                                                        const Writer& self);

}  // namespace sqlstream
