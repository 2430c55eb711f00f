#include "shipper/snapshot_upload.h"

#include <chrono>

#include "base/log.h"
#include "format/names.h"
#include "restore/plan.h"

namespace sqlstream {

asio::awaitable<std::unique_ptr<SnapshotCopy>> begin_snapshot(Database& database,
                                                              std::size_t number,
                                                              const std::function<bool()>& wanted) {
  std::unique_ptr<SnapshotCopy> copy;
  const bool begun = co_await on_worker([&] {
    copy = std::make_unique<SnapshotCopy>(
        database, database.outbox_directory() + "/snapshot-" + std::to_string(number));
    return copy->begin();
  });
  if (!begun) co_return nullptr;
  while (co_await on_worker([&] { return copy->copy_piece(); })) {
    if (!wanted()) co_return nullptr;
  }
  co_return copy;
}

asio::awaitable<std::optional<std::uint64_t>> upload_snapshot(Store& store, SnapshotCopy& copy,
                                                              std::uint32_t index,
                                                              const Metadata& metadata,
                                                              const std::string& replica,
                                                              const std::function<bool()>& wanted) {
  const auto begun = std::chrono::steady_clock::now();
  const std::string position = describe_position(copy.generation(), {index, 0});
  log::info("write snapshot",
            {{"db", metadata.database}, {"replica", replica}, {"position", position}});
  PutOptions options;
  options.if_absent = true;
  options.modified = metadata.last_commit;
  auto upload = co_await store.start_upload(names::snapshot_key(copy.generation(), index),
                                            copy.size(), options);
  std::uint64_t stored = 0;
  Bytes out = encode_metadata(metadata);
  bool more = true;
  while (more) {
    more = co_await on_worker([&] { return copy.compress_piece(out); });
    if (!wanted()) co_return std::nullopt;
    stored += out.size();
    co_await upload->write(std::exchange(out, {}));
  }
  co_await upload->finish();
  log::info("snapshot written", {{"db", metadata.database},
                                 {"replica", replica},
                                 {"position", position},
                                 {"sz", std::to_string(stored)},
                                 {"elapsed", elapsed_since(begun)}});
  co_return stored;
}

}  // namespace sqlstream
