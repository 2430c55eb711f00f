#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "format/metadata.h"
#include "shipper/engine.h"
#include "shipper/snapshot.h"
#include "store/store.h"

/// The slow parts of writing a snapshot, as coroutines of the engine's thread.
namespace sqlstream {

/// Begins a snapshot that needs no local copy. Null when one is needed. The outbox is being read,
/// and its batches are kept, meanwhile.
asio::awaitable<std::unique_ptr<SnapshotImage>> begin_in_place(Database& database);

/// Copies the database for a snapshot to replica `number`; SnapshotCopy::end() comes next. Null
/// when that is not possible now, or no longer `wanted`. Throws when the local file cannot be
/// written.
asio::awaitable<std::unique_ptr<SnapshotCopy>> begin_snapshot(Database& database,
                                                              std::size_t number,
                                                              const std::function<bool()>& wanted);

using MayLand = std::function<asio::awaitable<bool>()>;  // empty: it may

/// Uploads an image as the snapshot of `index`, which must not be there; the stored bytes. Empty
/// when it was no longer `wanted`, is not exact, or may not `land`, which is asked last: then
/// nothing became visible. Throws StoreError.
asio::awaitable<std::optional<std::uint64_t>> upload_snapshot(
    Store& store, SnapshotImage& image, std::uint32_t index, const Metadata& metadata,
    const std::string& replica, const std::function<bool()>& wanted, const MayLand& land);

}  // namespace sqlstream
