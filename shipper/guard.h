#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/clock.h"
#include "format/metadata.h"
#include "shipper/settings.h"
#include "store/store.h"

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
  Metadata metadata;
};

/// "was last written … by …" when that was another than `self`, and not longer ago than
/// `retention`; else empty. What the metadata leaves out is not compared. Pure.
std::optional<std::string> another_writer(const LastWrite& last, const Writer& self, Time now,
                                          std::chrono::nanoseconds retention);

/// The newest object in all generations of a replica; empty when there is none, or it is not
/// sqlstream's. Two listings for each generation, and one read.
asio::awaitable<std::optional<LastWrite>> find_last_write(Store& store);

/// To be called before a process first writes to a replica that it, or the outbox's note, does not
/// know: warns in the log of another writer. Throws Error instead where settings.exclusive.
asio::awaitable<void> guard_replica(Store& store, const ReplicaSettings& settings,
                                    const Writer& self);

}  // namespace sqlstream
