#include "restore/restore.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <optional>
#include <utility>

#include <boost/asio/experimental/awaitable_operators.hpp>

#include "base/log.h"
#include "base/on_worker.h"
#include "format/lz4_frame.h"
#include "format/names.h"
#include "restore/database_image.h"
#include "restore/fetch.h"
#include "restore/plan.h"
#include "restore/replay.h"
#include "restore/survey.h"
#include "restore/target_file.h"

namespace sqlstream {
namespace {

using std::chrono::steady_clock;

// Downloaded bytes held at once. With two decompressors (up to about 10 MiB each) this keeps a
// restore well under 64 MiB.
constexpr std::uint64_t kDownloadMemory = 20 << 20;

// Stored bytes that are replayed between two looks at whether the WAL is too far ahead.
constexpr std::size_t kReplayStep = 64 << 10;

// The words of Litestream, which people's scripts and eyes look for.
void say(const Store& store, const RestoreOptions& options, std::string_view what,
         const log::Fields& more) {
  if (options.quiet) return;
  log::Fields fields = options.log_as;
  if (fields.empty()) fields.emplace_back("replica", store.url());
  fields.insert(fields.end(), more.begin(), more.end());
  log::info(what, fields);
}

// One restore: a lane for the snapshot and one for the WAL, at the same time. Everything but the
// replaying itself runs on the store's executor.
class Restore {
 public:
  Restore(Store& store, const asio::any_io_executor& executor, const RestorePlan& plan,
          TargetFile& target, asio::thread_pool& workers, const RestoreOptions& options,
          ProgressCallback progress)
      : store_(store),
        workers_(workers),
        plan_(plan),
        options_(options),
        report_(std::move(progress)),
        units_(std::uint64_t{std::max(options.parallelism, 1U)} * OrderedFetch::kLargeUnits),
        image_(target),
        snapshot_(image_),
        wal_(image_, target),
        snapshot_fetch_(
            store, executor, 1,
            [this](std::size_t) {
              return OrderedFetch::Object{snapshot_key(), plan_.snapshot.size};
            },
            share(plan.segments.empty() ? 1 : 2)),
        wal_fetch_(
            store, executor, plan.segments.size(),
            [this](std::size_t i) {
              return OrderedFetch::Object{segment_key(i), plan_.segments[i].size};
            },
            // With one download at a time, the snapshot comes first.
            options.parallelism > 1 ? share(2) : OrderedFetch::Limits{}),
        snapshot_moved_(executor) {
    progress_.objects_total = 1 + plan.segments.size();
    progress_.bytes_total = plan.snapshot.size;
    for (const auto& segment : plan.segments) progress_.bytes_total += segment.size;
  }

  asio::awaitable<RestoreResult> run() {
    using asio::experimental::awaitable_operators::operator&&;
    co_await (guarded(read_snapshot()) && guarded(read_wal()));
    try {
      if (failure_) std::rethrow_exception(failure_);
      co_return finish();
    } catch (const OutputError&) {
      failure_ = std::current_exception();
    }
    co_await doubt_sizes();
    std::rethrow_exception(failure_);
  }

 private:
  RestoreResult finish() {
    RestoreResult result;
    result.generation = plan_.generation;
    result.position = {plan_.snapshot.index, 0};
    result.commit_time = object_time(plan_.snapshot.created, snapshot_.metadata());
    if (const auto& reached = wal_.reached()) {
      result.position = reached->position;
      result.commit_time = reached->time;
    }
    result.pages = image_.finish();
    result.page_size = image_.page_size();
    return result;
  }

  // What cannot be written may be what only a compacted object says is there, on no disk of any
  // size. Where the segments have the same size, what is lacking is room for the database. None of
  // the others takes more than the largest.
  asio::awaitable<void> doubt_sizes() {
    if (!largest_) co_return;
    std::optional<std::uint32_t> pages;
    try {
      pages = co_await size_behind(store_, plan_.generation, plan_.segments[largest_->segment]);
    } catch (const Error&) {
      co_return;  // that it could not be written is what is to be said
    }
    if (!pages || *pages == largest_->pages) co_return;
    throw CompactedUnusable(
        damaged(segment_key(largest_->segment),
                Error("it says that the database has " + std::to_string(largest_->pages) +
                      " pages, but its segments " + std::to_string(*pages))));
  }

  OrderedFetch::Limits share(unsigned parts) const {
    return {kDownloadMemory / parts, std::max<std::uint64_t>(units_ / parts, 1)};
  }

  std::string snapshot_key() const {
    return names::snapshot_key(plan_.generation, plan_.snapshot.index);
  }
  std::string segment_key(std::size_t i) const {
    return replica::key_of(plan_.generation, plan_.segments[i]);
  }

  // The first failure of either lane ends both, and every download with them. Never throws.
  asio::awaitable<void> guarded(asio::awaitable<void> lane) {
    try {
      co_await std::move(lane);
    } catch (...) {
      if (!failure_) failure_ = std::current_exception();
    }
    if (!failure_) co_return;
    co_await asio::this_coro::throw_if_cancelled(false);
    stopped_ = true;
    snapshot_moved_.notify();
    co_await snapshot_fetch_.stop();
    co_await wal_fetch_.stop();
  }

  void count(const std::vector<OrderedFetch::Piece>& pieces) {
    for (const auto& piece : pieces) {
      progress_.bytes_done += piece.data.size();
      if (piece.last) ++progress_.objects_done;
    }
    if (report_) report_(progress_);
  }

  void begin_wal() {
    if (wal_begun_) return;
    wal_begun_ = true;
    snapshot_moved_.notify();
  }

  asio::awaitable<void> read_snapshot() {
    std::vector<OrderedFetch::Piece> pieces;
    auto replay = [&] {
      try {
        for (const auto& piece : pieces) snapshot_.write(piece.data);
        if (pieces.back().last) snapshot_.finish();
      } catch (const OutputError&) {
        throw;
      } catch (const lz4::EncryptedError& error) {
        refuse(snapshot_key(), error);
      } catch (const Error& error) {
        throw Error(damaged(snapshot_key(), error) +
                    "; choose an older snapshot with -generation " + plan_.generation.str() +
                    " -timestamp or -index, or another generation");
      }
    };
    while (true) {
      pieces.clear();
      pieces = co_await snapshot_fetch_.next();
      if (stopped_ || pieces.empty()) break;
      co_await on_worker(workers_, replay);
      count(pieces);
      if (snapshot_.page_size_known()) begin_wal();
      snapshot_moved_.notify();
    }
    begin_wal();
    wal_fetch_.set_limits(share(1));
  }

  asio::awaitable<void> read_wal() {
    while (!wal_begun_ && !stopped_) co_await snapshot_moved_.wait();
    if (const auto& metadata = snapshot_.metadata()) wal_.follow(*metadata);
    std::vector<OrderedFetch::Piece> pieces;
    std::size_t failed = 0;  // the segment that cannot be used
    std::string reason;
    std::size_t next = 0;    // of the pieces,
    std::size_t offset = 0;  // and the byte in it
    bool waits = false;      // it is to go on from there once the snapshot has moved
    auto replay = [&] {
      waits = false;
      for (; next < pieces.size(); ++next, offset = 0) {
        const auto& piece = pieces[next];
        const auto& segment = plan_.segments[piece.object];
        try {
          do {
            waits = wal_.waits();
            if (waits) return;
            if (offset == 0 && piece.first) {
              if (segment.position.offset == 0) index_begun_ = steady_clock::now();
              const auto metadata = decode_metadata(piece.data);
              wal_.begin(segment, metadata);
              if (segment.level != 0) note_size(piece.object, metadata->database_size);
            }
            const auto step = ByteView(piece.data)
                                  .subspan(offset)
                                  .first(std::min(kReplayStep, piece.data.size() - offset));
            wal_.write(step);
            offset += step.size();
          } while (offset < piece.data.size());
          if (piece.last) wal_.end();
          if (piece.last && ends_index(piece.object)) say_of_index("applied wal", piece.object);
        } catch (const OutputError&) {
          throw;
        } catch (const lz4::EncryptedError& error) {
          refuse(segment_key(piece.object), error);
        } catch (const SegmentMissing& missing) {
          failed = piece.object;
          reason = "cannot restore, a WAL segment is missing in " + store_.url() + " before " +
                   segment_key(failed) + " (" + missing.what() + ")";
          return;
        } catch (const Error& error) {
          failed = piece.object;
          reason = damaged(segment_key(failed), error);
          return;
        }
      }
    };
    while (!stopped_) {
      pieces.clear();
      pieces = co_await wal_fetch_.next();
      if (stopped_ || pieces.empty()) break;
      for (const auto& piece : pieces) {
        if (piece.last && ends_index(piece.object)) say_of_index("downloaded wal", piece.object);
      }
      next = offset = 0;
      do {
        while (waits && wal_.waits() && !stopped_) co_await snapshot_moved_.wait();
        if (stopped_) co_return;
        co_await on_worker(workers_, replay);
      } while (waits);
      if (!reason.empty()) {
        if (plan_.segments[failed].level != 0) throw CompactedUnusable(reason);
        if (is_behind_compacted(plan_, failed)) {
          throw CompactedUnusable(reason + ", or a compacted one before it is damaged");
        }
        const Reach reach = co_await reach_before(store_, plan_, failed);
        throw Error(reason + ": " + describe_reach(reach));
      }
      count(pieces);
    }
    snapshot_fetch_.set_limits(share(1));
  }

  void note_size(std::size_t segment, std::uint32_t pages) {
    if (!largest_ || pages > largest_->pages) largest_ = Size{segment, pages};
  }

  bool ends_index(std::size_t segment) const {
    return segment + 1 == plan_.segments.size() ||
           plan_.segments[segment + 1].position.index != plan_.segments[segment].position.index;
  }

  void say_of_index(const char* what, std::size_t segment) const {
    say(store_, options_, what,
        {{"generation", plan_.generation.str()},
         {"index", std::to_string(plan_.segments[segment].position.index)},
         {"elapsed", elapsed_since(index_begun_)}});
  }

  [[noreturn]] void refuse(const std::string& key, const lz4::EncryptedError& error) const {
    throw Error("cannot restore, object " + store_.url() + "/" + key + " " + error.what());
  }

  std::string damaged(const std::string& key, const Error& error) const {
    return "cannot restore, object " + store_.url() + "/" + key + " is damaged (" + error.what() +
           ")";
  }

  Store& store_;
  asio::thread_pool& workers_;
  const RestorePlan& plan_;
  const RestoreOptions& options_;
  ProgressCallback report_;
  RestoreProgress progress_;
  std::uint64_t units_;
  DatabaseImage image_;
  SnapshotReplay snapshot_;
  WalReplay wal_;
  OrderedFetch snapshot_fetch_;
  OrderedFetch wal_fetch_;
  Event snapshot_moved_;
  steady_clock::time_point index_begun_ = steady_clock::now();
  struct Size {
    std::size_t segment;
    std::uint32_t pages;
  };
  std::optional<Size> largest_;  // that a compacted segment begun says the database has
  bool wal_begun_ = false;
  bool stopped_ = false;
  std::exception_ptr failure_;
};

void say_plan(const Store& store, const RestoreOptions& options, const RestorePlan& plan) {
  say(store, options, "restoring snapshot",
      {{"generation", plan.generation.str()},
       {"index", std::to_string(plan.snapshot.index)},
       {"path", options.output}});
  if (plan.segments.empty()) return;
  say(store, options, "restoring wal files",
      {{"generation", plan.generation.str()},
       {"index_min", std::to_string(plan.segments.front().position.index)},
       {"index_max", std::to_string(plan.segments.back().position.index)}});
}

asio::awaitable<RestoreResult> restore_as_planned(Store& store, const RestoreOptions& options,
                                                  asio::thread_pool& workers,
                                                  const ProgressCallback& progress) {
  const auto executor = co_await asio::this_coro::executor;
  const RestorePlan plan = co_await survey(store, options);
  say_plan(store, options, plan);
  std::optional<FolderOf> folder;  // outlives what is written there
  if (options.make_folder) folder.emplace(options.output);
  const auto target = std::make_shared<TargetFile>(options.output, options.mode);
  Restore run(store, executor, plan, *target, workers, options, progress);
  RestoreResult result = co_await run.run();
  if (options.temporary) {
    result.output = target->path();
    result.temporary = target;
    co_return result;
  }
  result.output = options.output;
  say(store, options, "renaming database from temporary location", {{"path", options.output}});
  auto publish = [&] { target->publish(); };
  co_await on_worker(workers, publish);
  co_return result;
}

}  // namespace

asio::awaitable<RestoreResult> restore(Store& store, RestoreOptions options,
                                       asio::thread_pool& workers, ProgressCallback progress) {
  refuse_existing_output(options.output);
  Attempts attempts;
  while (true) {
    try {
      co_return co_await restore_as_planned(store, options, workers, progress);
    } catch (const Error& error) {
      const bool compacted = options.compacted;
      if (!attempts.again(error, options)) throw;
      const char* next = compacted && !options.compacted ? "; restoring without compacted segments"
                                                         : "; listing the replica anew";
      log::warn(error.what() + std::string(next), {{"replica", store.url()}});
    }
  }
}

}  // namespace sqlstream
