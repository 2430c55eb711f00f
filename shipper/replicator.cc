#include "shipper/replicator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <type_traits>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "base/log.h"
#include "format/names.h"
#include "shipper/snapshot.h"

namespace sqlstream {
namespace {

using std::chrono::steady_clock;

constexpr std::uint64_t kBatchSize = 32ULL << 20;  // a fold ends behind it: bounds memory and loss
constexpr auto kFirstPause = std::chrono::milliseconds(500);
constexpr auto kLongestPause = std::chrono::seconds(30);
constexpr auto kSnapshotRetry = std::chrono::seconds(1);
constexpr std::uint64_t kEndMagic = 0x31444e4552535153;  // "SQSREND1"

struct DiskEnd {
  std::uint64_t magic;
  ReplicaEnd end;
  std::uint64_t hash;
};
static_assert(std::is_trivially_copyable_v<DiskEnd>);

std::string end_path(const std::string& outbox, const std::string& url) {
  std::array<char, 40> name{};
  std::snprintf(name.data(), name.size(), "/replica-%016llx",
                static_cast<unsigned long long>(XXH3_64bits(url.data(), url.size())));
  return outbox + name.data();
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

}  // namespace

std::optional<ReplicaEnd> load_replica_end(const std::string& outbox, const std::string& url) {
  const UniqueFd fd(::open(end_path(outbox, url).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return std::nullopt;
  alignas(DiskEnd) std::array<std::uint8_t, sizeof(DiskEnd)> bytes{};
  if (::pread(fd.get(), bytes.data(), bytes.size(), 0) != sizeof(DiskEnd)) return std::nullopt;
  DiskEnd disk;
  std::memcpy(static_cast<void*>(&disk), bytes.data(), sizeof disk);
  if (disk.magic != kEndMagic || disk.hash != XXH3_64bits(bytes.data(), offsetof(DiskEnd, hash))) {
    return std::nullopt;
  }
  return disk.end;
}

void save_replica_end(const std::string& outbox, const std::string& url, const ReplicaEnd& end,
                      mode_t mode) {
  const UniqueFd fd(
      ::open(end_path(outbox, url).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd) return;  // only a hint: without it the store is asked
  ::fchmod(fd.get(), mode);
  // Through bytes that were zero, so that padding hashes the same.
  alignas(DiskEnd) std::array<std::uint8_t, sizeof(DiskEnd)> bytes{};
  auto* disk = new (bytes.data()) DiskEnd;
  disk->magic = kEndMagic;
  disk->end = end;
  disk->hash = XXH3_64bits(bytes.data(), offsetof(DiskEnd, hash));
  if (::pwrite(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    // As above.
  }
}

Replicator::Replicator(Database& database, std::size_t number)
    : database_(database),
      number_(number),
      settings_(database.settings().replicas[number]),
      host_(host_name()),
      store_(make_store(settings_.store, Engine::get().executor())),
      signal_(Engine::get().executor()),
      reader_(database.outbox_directory()) {
  end_ = load_replica_end(database.outbox_directory(), store_->url());
  if (end_) {
    status_.generation = end_->generation;
    status_.position = end_->position;
    status_.sequence = status_.settled = end_->sequence;
  }
  database_.set_status(number_, status_);
}

Replicator::~Replicator() = default;

// Log files are read while this lives.
class Replicator::Reading {
 public:
  explicit Reading(Replicator& replicator) : replicator_(replicator) { replicator.reading_ = true; }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;
  ~Reading() { replicator_.reading_ = false; }

 private:
  Replicator& replicator_;
};

asio::awaitable<std::unique_ptr<Replicator::Reading>> Replicator::begin_reading() {
  while (database_.folding()) co_await signal_.wait();
  co_return std::make_unique<Reading>(*this);
}

OutboxUse Replicator::use() const {
  OutboxUse use;
  if (snapshot_at_ != 0) {
    use.end = snapshot_at_;
  } else if (end_) {
    use.end = end_->sequence;
    use.first = end_->sequence + 1;
    use.last = std::max(in_flight_, end_->open_batch);
  }
  return use;
}

asio::awaitable<void> Replicator::run() {
  std::chrono::nanoseconds pause = kFirstPause;
  while (!stopping_) {
    std::string error;
    try {
      co_await step();
      pause = kFirstPause;
      continue;
    } catch (const std::exception& e) {
      error = e.what();
    }
    report(error);
    // Whatever it was: where the replica ends is asked again before the next write.
    located_ = false;
    const auto failed = steady_clock::now();
    while (!stopping_ &&
           steady_clock::now() < failed + (database_.flushing() ? kFirstPause : pause)) {
      co_await signal_.wait_until(failed + pause);
    }
    pause = std::min<std::chrono::nanoseconds>(pause * 2, kLongestPause);
  }
}

// One step: waits for something to do, and does one thing.
asio::awaitable<void> Replicator::step() {
  const auto tail = database_.tail();
  const bool nothing_new = !tail || (located_ && end_->generation == tail->generation &&
                                     end_->sequence >= tail->last.sequence);
  if (nothing_new) {
    if (tail) settle(tail->last.sequence);
    co_await signal_.wait();
    co_return;
  }
  if (!located_ && !co_await locate(*tail)) {
    if (!co_await write_snapshot(*tail)) {
      // Not possible now: the generation ended, or nobody here has the database open.
      if (!database_.generation_alive() || database_.connections() == 0) {
        settle(tail->last.sequence);
      }
      if (database_.has_mapping()) {
        co_await signal_.wait_until(steady_clock::now() + kSnapshotRetry);
      } else {
        co_await signal_.wait();
      }
    }
    co_return;
  }
  co_await pace();
  const auto known = database_.tail();
  std::shared_ptr<const Batch> batch;
  std::string damage;
  try {
    {
      const auto reading = co_await begin_reading();
      if (folds_ != database_.folds() && !co_await seek(end_->sequence)) {
        located_ = false;
        co_return;
      }
      batch = co_await on_worker([&] { return next_batch(known->last.sequence); });
      if (batch != nullptr) in_flight_ = batch->last().sequence;
    }
    if (batch != nullptr && !co_await write_batch(batch)) co_return;
    in_flight_ = 0;
  } catch (const StoreError&) {
    throw;
  } catch (const Error& e) {
    damage = e.what();
  }
  if (!damage.empty() && end_->generation == known->generation) {
    co_await on_worker([&] { database_.give_up(damage, end_->generation); });
    database_.wake();
  }
  if (!damage.empty() || (batch == nullptr && end_->generation != known->generation)) {
    // The old generation is there as far as it can be; the new one begins with its snapshot.
    located_ = false;
    end_.reset();
  }
}

// Puts the reader behind a batch. While reading.
asio::awaitable<bool> Replicator::seek(std::uint64_t sequence) {
  folds_ = database_.folds();
  co_return co_await on_worker([&] { return reader_.seek(sequence, database_.log_files()); });
}

// At most one segment per sync interval; the first after a quiet time at once.
asio::awaitable<void> Replicator::pace() {
  const auto until = last_put_ + settings_.sync_interval;
  while (!stopping_ && !database_.flushing() && steady_clock::now() < until) {
    co_await signal_.wait_until(until);
  }
}

std::shared_ptr<const Batch> Replicator::next_batch(std::uint64_t last) {
  auto batch = std::make_shared<Batch>();
  while (batch->empty() || end_->open_batch != 0 || batch->image_bytes() < kBatchSize) {
    if (end_->open_batch != 0) last = end_->open_batch;  // folded as it was when it was begun
    if (reader_.next_generation(last) != end_->generation) break;
    batch->add(*reader_.next(last));
    if (end_->open_batch != 0 && batch->last().sequence == end_->open_batch) break;
  }
  if (end_->open_batch != 0 && (batch->empty() || batch->last().sequence != end_->open_batch)) {
    throw Error("the outbox no longer holds batch " + std::to_string(end_->open_batch) +
                " as it was when a part of it was shipped");
  }
  return batch->empty() ? nullptr : batch;
}

// Finds where the replica ends and puts the reader behind it. False when the replica does not have
// the generation's snapshot: it begins there.
asio::awaitable<bool> Replicator::locate(const capture::Tail& tail) {
  std::optional<ReplicaEnd> found;
  if (end_) {
    const auto snapshots = co_await replica::list_snapshots(*store_, end_->generation);
    if (!snapshots.empty()) {
      found = co_await find_end(end_->generation, end_);
    } else if (end_->generation == tail.generation) {
      // It was there: the note is only written behind it.
      end_.reset();
      co_await on_worker([&] {
        database_.give_up("the replica lost the generation's snapshot", tail.generation);
      });
      database_.wake();
      co_return false;
    }
  }
  if (!found && (!end_ || end_->generation != tail.generation)) {
    end_.reset();
    found = co_await find_end(tail.generation, {});
  }
  in_flight_ = 0;
  if (!found) {
    end_.reset();
    co_return false;
  }
  bool stands = false;
  std::string why =
      "the replica holds batch " + std::to_string(found->sequence) + ", which the outbox does not";
  if (found->sequence <= tail.last.sequence) {
    const auto reading = co_await begin_reading();
    stands = co_await seek(found->sequence);
    // Where another generation has begun behind it, the replica has all of its own.
    if (stands && found->chain != 0 && reader_.generation() == found->generation &&
        reader_.batch_chain() != found->chain && found->sequence >= tail.generation_first) {
      stands = false;
      why = "the replica holds another history of this generation";
    }
  }
  if (!stands) {
    end_.reset();
    if (found->generation == tail.generation) {
      co_await on_worker([&] { database_.give_up(why, tail.generation); });
      database_.wake();
    }
    co_return false;
  }
  end_ = found;
  located_ = true;
  co_await advance(*end_, status_.commit_time);
  co_return true;
}

asio::awaitable<std::optional<ReplicaEnd>> Replicator::find_end(Generation generation,
                                                                std::optional<ReplicaEnd> known) {
  // With a note of where it ended, one request shows whether an answer was lost after it.
  std::optional<Position> after;
  if (known && known->position.offset > 0) {
    after = Position{known->position.index, known->position.offset - 1};
  }
  const auto segments = co_await replica::list_segments(*store_, generation, after);
  if (segments.empty() && known) co_return known;
  const auto snapshots = co_await replica::list_snapshots(*store_, generation);
  if (snapshots.empty()) co_return std::nullopt;

  const bool from_segment =
      !segments.empty() && segments.back().position.index >= snapshots.back().index;
  const std::string key = from_segment ? names::segment_key(generation, segments.back().position)
                                       : names::snapshot_key(generation, snapshots.back().index);
  const auto metadata = co_await replica::read_metadata(*store_, key);
  if (!metadata) {
    throw Error("the object " + store_->url() + '/' + key +
                " was not written by sqlstream; is another program replicating to this path?");
  }
  ReplicaEnd end;
  end.generation = generation;
  end.sequence = metadata->last_sequence;
  end.chain = metadata->chain;
  if (!from_segment) {
    end.position = {snapshots.back().index, 0};
    co_return end;
  }
  end.position = {segments.back().position.index,
                  segments.back().position.offset + metadata->wal_size};
  end.wal_salt = metadata->wal_salt;
  end.wal_sum = metadata->wal_sum;
  if (!metadata->ends_on_commit) {
    end.open_batch = metadata->last_sequence;
    end.open_frames = metadata->batch_frame + metadata->pages;
    end.sequence = metadata->first_sequence - 1;
    end.chain = 0;
  }
  co_return end;
}

asio::awaitable<bool> Replicator::write_snapshot(const capture::Tail& tail) {
  if (!database_.generation_alive()) co_return false;
  auto reading = co_await begin_reading();
  if (!co_await seek(tail.generation_first - 1)) {
    // Another replica has it all, and this one is new: the outbox let go of the beginning.
    co_await on_worker(
        [&] { database_.give_up("a replica is to begin without its beginning", tail.generation); });
    database_.wake();
    co_return false;
  }
  const auto begun = steady_clock::now();
  std::unique_ptr<SnapshotCopy> copy;
  const bool can_begin = co_await on_worker([&] {
    copy = std::make_unique<SnapshotCopy>(
        database_, database_.outbox_directory() + "/snapshot-" + std::to_string(number_));
    return copy->begin();
  });
  if (!can_begin) co_return false;
  log::info("write snapshot", {{"db", database_.path()},
                               {"replica", settings_.name},
                               {"generation", tail.generation.str()}});
  while (co_await on_worker([&] { return copy->copy_piece(); })) {
    if (stopping_) co_return false;
  }
  if (!co_await on_worker([&] { return copy->finish(); })) co_return false;
  snapshot_at_ = copy->at().sequence;
  reading.reset();

  Metadata metadata;
  metadata.kind = Metadata::Kind::snapshot;
  metadata.first_commit = metadata.last_commit =
      Time(std::chrono::nanoseconds(copy->at().last_commit));
  metadata.page_size = copy->at().page_size;
  metadata.pages = metadata.database_size = copy->at().database_size;
  metadata.first_sequence = metadata.last_sequence = copy->at().sequence;
  metadata.chain = copy->at().chain;
  metadata.source_salt = copy->at().source.salt;
  metadata.source_frame = copy->at().source.frame;
  metadata.host = host_;
  metadata.database = database_.path();
  const std::string key = names::snapshot_key(copy->generation(), 0);
  PutOptions options;
  options.if_absent = true;
  options.modified = metadata.last_commit;
  auto upload = co_await store_->start_upload(key, copy->size(), options);
  std::uint64_t stored = 0;
  Bytes out = encode_metadata(metadata);
  bool more = true;
  while (more) {
    more = co_await on_worker([&] { return copy->compress_piece(out); });
    if (!database_.generation_alive()) co_return false;  // unfinished: nothing becomes visible
    stored += out.size();
    co_await upload->write(std::exchange(out, {}));
  }
  co_await upload->finish();

  ReplicaEnd end;
  end.generation = copy->generation();
  end.sequence = copy->at().sequence;
  end.chain = copy->at().chain;
  end_ = end;
  {
    const auto again = co_await begin_reading();
    located_ = co_await seek(end.sequence);
  }
  snapshot_at_ = 0;
  status_.snapshot_time = now();
  log::info("snapshot written",
            {{"db", database_.path()},
             {"replica", settings_.name},
             {"position", end.generation.str() + "/00000000:00000000"},
             {"sz", std::to_string(stored)},
             {"elapsed", std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(
                                            steady_clock::now() - begun)
                                            .count()) +
                             "ms"}});
  co_await advance(end, metadata.last_commit);
  co_return true;
}

asio::awaitable<bool> Replicator::write_batch(std::shared_ptr<const Batch> batch) {
  SegmentEncoder encoder(batch, *end_, host_, database_.path());
  while (!encoder.done()) {
    auto object = co_await on_worker([&] { return encoder.next(); });
    last_put_ = steady_clock::now();
    if (!co_await put(object)) {
      located_ = false;  // what is there decides how it goes on
      co_return false;
    }
    end_ = object.end;
    co_await advance(object.end, object.commit_time);
  }
  co_return true;
}

// False when the key is there already: from an answer that was lost, or from somebody else.
asio::awaitable<bool> Replicator::put(SegmentObject& object) {
  PutOptions options;
  options.if_absent = true;
  options.modified = object.commit_time;
  const auto size = object.body.size();
  const auto begun = steady_clock::now();
  try {
    co_await store_->put(object.key, std::move(object.body), options);
  } catch (const StoreError& e) {
    if (e.kind() != StoreError::Kind::exists) throw;
    co_return false;
  }
  log::debug("wal segment written",
             {{"db", database_.path()},
              {"replica", settings_.name},
              {"position", object.key},
              {"sz", std::to_string(size)},
              {"elapsed", std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(
                                             steady_clock::now() - begun)
                                             .count()) +
                              "ms"}});
  co_return true;
}

asio::awaitable<void> Replicator::advance(ReplicaEnd end, Time commit_time) {
  co_await on_worker([&] {
    const auto place = capture::OutboxPlace::of(database_.path(), database_.settings().outbox_dir);
    save_replica_end(place.directory, store_->url(), end, place.file_mode);
  });
  report({});
  status_.generation = end.generation;
  status_.position = end.position;
  status_.sequence = end.sequence;
  status_.settled = std::max(status_.settled, end.sequence);
  status_.commit_time = commit_time;
  database_.set_status(number_, status_);
  co_await on_worker([&] { database_.trim(); });
}

void Replicator::settle(std::uint64_t sequence) {
  if (status_.settled >= sequence) return;
  status_.settled = sequence;
  database_.set_status(number_, status_);
}

// Once per change of state: an outage is two lines in the log, however long.
void Replicator::report(const std::string& error) {
  if (status_.error == error) return;
  if (error.empty()) {
    log::info("replica takes data again", {{"db", database_.path()}, {"replica", settings_.name}});
  } else {
    log::error(error, {{"db", database_.path()}, {"replica", settings_.name}});
    if (status_.error.empty()) status_.error_since = now();
  }
  status_.error = error;
  database_.set_status(number_, status_);
}

}  // namespace sqlstream
