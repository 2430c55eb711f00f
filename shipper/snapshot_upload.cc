#include "shipper/snapshot_upload.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "format/lz4_frame.h"
#include "format/names.h"
#include "restore/plan.h"
#include "shipper/snapshot_in_place.h"

namespace sqlstream {
namespace {

using Proof = Database::Proof;

// For a checkpoint that is under way when the last piece was read; and for its announcement, which
// comes after a capture.
constexpr auto kProofPatience = std::chrono::seconds(30);
constexpr auto kAnnouncementPatience = std::chrono::seconds(3);
constexpr auto kLeastSightPatience = std::chrono::seconds(1);
constexpr auto kBetweenProofs = std::chrono::milliseconds(10);

}  // namespace

asio::awaitable<std::unique_ptr<SnapshotImage>> begin_in_place(Database& database) {
  std::unique_ptr<SnapshotImage> image;
  if (!database.settings().snapshots_in_place || database.take_copy_next()) co_return image;
  try {
    image = co_await on_worker([&] { return SnapshotInPlace::begin(database); });
  } catch (const std::exception& e) {
    if (database.news_of_copies(e.what())) {
      log::warn(std::string("the snapshot needs a local copy: ") + e.what(),
                {{"db", database.path()}});
    }
  }
  if (image != nullptr) {
    database.news_of_copies({});
    log::info("begin snapshot in place", {{"db", database.path()}});
  }
  co_return image;
}

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
  log::info("begin snapshot of a local copy", {{"db", database.path()}});
  while (co_await on_worker([&] { return copy->copy_piece(); })) {
    if (!wanted()) co_return nullptr;
  }
  co_return copy;
}

namespace {

// False when it is not, or cannot be told for too long. `begun`: the upload, which is in vain then:
// the longer it took, the longer a connection is waited for that sees the wal-index.
asio::awaitable<bool> proven(SnapshotImage& image, std::chrono::steady_clock::time_point begun,
                             const std::function<bool()>& wanted) {
  using std::chrono::steady_clock;
  const auto until = steady_clock::now() + kProofPatience;
  const auto sight_patience =
      std::max<steady_clock::duration>(kLeastSightPatience, (steady_clock::now() - begun) / 10);
  auto announced = steady_clock::now();
  auto seen = announced;
  asio::steady_timer timer(Engine::get().executor());
  while (wanted()) {
    const auto proof = co_await on_worker([&] { return image.prove(); });
    if (proof == Proof::exact || proof == Proof::not_exact) co_return proof == Proof::exact;
    const auto time = steady_clock::now();
    if (proof != Proof::unannounced) announced = time;
    if (proof != Proof::unseen) seen = time;
    if (time >= until || time >= announced + kAnnouncementPatience ||
        time >= seen + sight_patience) {
      break;
    }
    timer.expires_after(kBetweenProofs);
    co_await timer.async_wait(asio::use_awaitable);
  }
  co_return false;
}

}  // namespace

asio::awaitable<std::optional<std::uint64_t>> upload_snapshot(
    Store& store, SnapshotImage& image, std::uint32_t index, const Metadata& metadata,
    const std::string& replica, const std::function<bool()>& wanted, const MayLand& land) {
  const auto begun = std::chrono::steady_clock::now();
  const std::string position = describe_position(image.generation(), {index, 0});
  log::info("write snapshot",
            {{"db", metadata.database}, {"replica", replica}, {"position", position}});
  PutOptions options;
  options.if_absent = true;
  options.modified = metadata.last_commit;
  auto upload = co_await store.start_upload(names::snapshot_key(image.generation(), index),
                                            image.size(), options);
  std::uint64_t stored = 0;
  Bytes out = encode_metadata(metadata);
  lz4::Compressor compressor;
  Bytes piece;
  bool more = true;
  while (more) {
    more = co_await on_worker([&] {
      const bool another = image.read_piece(piece);
      compressor.write(piece, out);
      if (!another) compressor.finish(out);
      return another;
    });
    if (!wanted()) co_return std::nullopt;
    if (!image.possible()) {
      image.explain();
      co_return std::nullopt;
    }
    stored += out.size();
    co_await upload->write(std::exchange(out, {}));
  }
  if (!co_await proven(image, begun, wanted)) {
    image.explain();
    log::info("snapshot given up: it cannot be told whether all of what it is of was seen",
              {{"db", metadata.database}, {"replica", replica}, {"position", position}});
    co_return std::nullopt;
  }
  if (land && !co_await land()) co_return std::nullopt;
  co_await upload->finish();
  log::info("snapshot written", {{"db", metadata.database},
                                 {"replica", replica},
                                 {"position", position},
                                 {"sz", std::to_string(stored)},
                                 {"elapsed", elapsed_since(begun)}});
  co_return stored;
}

}  // namespace sqlstream
