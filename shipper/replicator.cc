#include "shipper/replicator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <system_error>
#include <type_traits>
#include <unistd.h>
#include <utility>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>

#include "base/error.h"
#include "base/log.h"
#include "format/names.h"
#include "restore/plan.h"
#include "shipper/effort_budget.h"
#include "shipper/maintenance.h"
#include "shipper/snapshot_upload.h"
#include "shipper/validation.h"

namespace sqlstream {
namespace {

using std::chrono::steady_clock;

constexpr std::uint64_t kBatchSize = 8ULL << 20;  // a fold ends behind it: bounds memory and loss
constexpr auto kLeastRest = std::chrono::seconds(1);  // between looks whether a replica is there
constexpr auto kFirstPause = std::chrono::milliseconds(500);
constexpr auto kLongestPause =
    std::chrono::seconds(5);  // so soon it is noticed that a store is back
constexpr auto kLongestRefused = std::chrono::seconds(30);
constexpr auto kLookPause = std::chrono::milliseconds(100);
constexpr auto kSnapshotRetry = std::chrono::seconds(1);

// Of the replica's last object it cannot be told what it holds.
class EndUnknown : public Error {
 public:
  using Error::Error;
};

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

}  // namespace

Backoff store_backoff(bool refused) {
  return {kFirstPause, refused ? kLongestRefused : kLongestPause};
}

Replicator::Replicator(Database& database, std::size_t number)
    : database_(database),
      number_(number),
      settings_(database.settings().replicas[number]),
      host_(host_name()),
      store_(make_store(settings_.store, Engine::get().executor())),
      signal_(Engine::get().executor()),
      reader_(database.outbox_directory()),
      note_path_(replica_note_path(database.outbox_directory(), settings_.store.place())) {
  note_ = load_replica_note(note_path_).value_or(ReplicaNote{});
  note_.pid = ::getpid();
  note_.sqlite = database.host().api->libversion_number();
  // Of another outbox in the same place, or the machine lost what was captured: the store is asked.
  if (note_.end) saw_end(*note_.end);
  const auto known = database.tail();
  const bool ahead = note_.end && known && note_.end->sequence > known->last.sequence;
  if (ahead) note_.end.reset();
  noted_ours_ = note_.end && note_.writer == noted_writer();
  end_ = note_.end;
  // Of a process that died: it may be in the replica, or still come.
  (end_ ? in_flight_ : snapshot_at_) = note_.in_flight;
  // After a crash of the machine the outbox may have lost what the note counts: other commits have
  // its sequences then, and the replica shows it.
  if (end_ && is_this_boot(note_.boot)) {
    status_.generation = end_->generation;
    status_.position = end_->position;
    status_.sequence = status_.settled = end_->sequence;
    status_.commit_time = note_.commit_time;
    status_.snapshot_time = note_.snapshot_time;
  }
  status_.validation = note_.validation;
  database_.set_status(number_, status_);
  maintenance_ = std::make_unique<Maintenance>(*this);
  validation_ = std::make_unique<Validation>(*this);
  if (ahead) write_note(note_to_save());  // for who waits, and reads it
}

Replicator::~Replicator() = default;

asio::awaitable<std::unique_ptr<Replicator::Reading>> Replicator::begin_reading(Signal& signal) {
  while (database_.folding()) co_await signal.wait();
  co_return std::make_unique<Reading>(readers_);
}

bool Replicator::writes_snapshot() const {
  return begins_ || maintenance_->writing();
}

void Replicator::folded() {
  notify();
  maintenance_->notify();
}

void Replicator::make_room() {
  maintenance_->make_room();
}

std::vector<OutboxUse> Replicator::uses() const {
  std::vector<OutboxUse> uses(1);
  OutboxUse& use = uses.front();
  if (snapshot_at_ != 0) {
    use.end = snapshot_at_;
  } else if (end_) {
    use.end = end_->sequence;
    use.first = end_->sequence + 1;
    use.last = std::max(in_flight_, end_->open_batch);
  }
  // A segment must be able to end there.
  if (roll_at_ != 0) uses.push_back({roll_at_, 0, 0});
  return uses;
}

void Replicator::stop_validating() {
  validation_->stop();
}

void Replicator::stop() {
  stopping_ = true;
  stop_validating();
  notify();
  maintenance_->notify();
}

std::optional<Generation> Replicator::shipping() const {
  if (!located_ || !end_ || !status_.error.empty()) return std::nullopt;
  return end_->generation;
}

// Not while only a part of a batch is there.
std::optional<Time> Replicator::shipped_until() const {
  if (!end_ || end_->open_batch != 0 || status_.commit_time == Time{}) return std::nullopt;
  return status_.commit_time;
}

void Replicator::validated() {
  status_.validation = note_.validation;
  database_.set_status(number_, status_);
}

std::chrono::nanoseconds Replicator::since_last_write() const {
  return steady_clock::now() - std::max(last_write_, last_put_);
}

void Replicator::look_again() {
  located_ = false;
  notify();
}

// As far as the note has room for it.
std::string Replicator::noted_writer() const {
  return (host_ + ':' + database_.path()).substr(0, 500);
}

void Replicator::hold(bool held) {
  held_ = held;
  notify();
}

void Replicator::roll_behind(std::uint64_t sequence) {
  roll_at_ = sequence;
  rolled_.reset();
  notify();
}

asio::awaitable<void> Replicator::run() {
  int beside = 2;
  const auto ended = [&](const std::exception_ptr&) {
    --beside;
    notify();
  };
  const auto executor = Engine::get().executor();
  asio::co_spawn(executor, despite_memory([this] { return maintenance_->run(); }), ended);
  asio::co_spawn(executor, despite_memory([this] { return validation_->run(); }),
                 asio::bind_cancellation_slot(validation_->slot(), ended));
  std::exception_ptr failed;
  try {
    co_await ship();
  } catch (...) {
    failed = std::current_exception();
    stop();
  }
  while (beside > 0) co_await signal_.wait();
  if (failed) std::rethrow_exception(failed);
}

asio::awaitable<void> Replicator::ship() {
  Backoff away = store_backoff(false);
  Backoff refused = store_backoff(true);
  while (!stopping_) {
    std::string error;
    bool is_away = false;
    const std::string refused_before = std::exchange(refused_for_, {});
    try {
      co_await step();
      failing_.reset();
      away.reset();
      refused.reset();
      continue;
    } catch (const StoreError& e) {
      error = e.what();
      is_away =
          e.kind() == StoreError::Kind::unreachable || e.kind() == StoreError::Kind::unavailable;
    } catch (const AnotherWriter& e) {
      refused_for_ = e.who();
      const bool same = refused_for_ == refused_before && !status_.error.empty();
      error = same ? status_.error : e.what();  // when that one wrote last is no change
    } catch (const std::exception& e) {
      error = text_of(e);
    }
    // Whatever it was: where the replica ends is asked again before the next write.
    located_ = takes_data_ = false;
    promise(0);
    try {
      if (status_.error != error) {
        report(error);
        co_await save_note();
      }
    } catch (const std::bad_alloc&) {
      // It is said the next time.
    }
    const auto failed = steady_clock::now();
    failing_ = Failing{failing_ ? failing_->since : failed, !is_away};
    const auto pause = is_away ? away.next() : refused.next();
    resting_ = true;
    database_.reconsider_role();
    while (!stopping_ &&
           steady_clock::now() < failed + (database_.flushing() ? kFirstPause : pause)) {
      co_await signal_.wait_until(failed + pause);
    }
    resting_ = false;
  }
  promise(0);
}

// One step: waits for something to do, and does one thing.
asio::awaitable<void> Replicator::step() {
  if (roll_at_ != 0 && located_ && end_->sequence >= roll_at_) co_return co_await roll();
  if (!located_) promise(0);
  if (promised_) co_await gather();
  const auto tail = database_.tail();
  const bool nothing_new = !tail || (located_ && end_->generation == tail->generation &&
                                     end_->sequence >= tail->last.sequence);
  if (nothing_new) {
    if (promised_) {
      // What was captured was shipped before: who waits sees it now.
      promise(0);
      co_return;
    }
    if (tail) settle(tail->last.sequence);
    // Other processes wait for what it says.
    if (note_unsaved_.load() && !co_await save_note()) {
      co_await signal_.wait_until(steady_clock::now() + kSnapshotRetry);
    } else {
      co_await signal_.wait();
    }
    co_return;
  }
  if (!located_ && !co_await locate(*tail)) {
    if (!co_await write_snapshot(*tail)) {
      if (database_.generation_alive() && !database_.has_mapping()) database_.cannot_see();
      if (stopping_) co_return;
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
  if (!co_await still_there()) {
    located_ = false;
    co_return;
  }
  co_await pace();
  if (!promised_) co_await gather();
  while (held_ && !stopping_) co_await signal_.wait();
  group_.begin(database_.captured_tickets(), steady_clock::now());
  promise(group_.several() && database_.replicas() == 1 ? Durability::kNever : 0);
  const auto known = database_.tail();
  Shipment shipment;
  std::string damage;
  try {
    {
      const auto reading = co_await begin_reading(signal_);
      if (folds_ != database_.folds() && !co_await seek(end_->sequence)) {
        located_ = false;
        co_return;
      }
      std::uint64_t last = known->last.sequence;
      if (roll_at_ != 0 && end_->sequence < roll_at_) last = std::min(roll_at_, last);
      // What may still land is sent as it was: not with more, which may not fit its index.
      if (in_flight_ > end_->sequence) last = std::min(in_flight_, last);
      const NoteToSave saving = note_to_save();
      shipment = co_await on_worker([&] { return next_shipment(last, saving); });
      if (shipment.batch != nullptr) {
        note_.in_flight = in_flight_ = shipment.batch->last().sequence;
        if (notes_ != saving.number) co_await save_note();  // written meanwhile: without it
      }
    }
    if (shipment.batch != nullptr && !co_await write(shipment)) co_return;
    in_flight_ = 0;
  } catch (const StoreError&) {
    throw;
  } catch (const Error& e) {
    damage = e.what();
  }
  const bool of_tail = !damage.empty() && end_->generation == known->generation;
  // It ended before: what is behind the damage is for the next one, which may not have begun yet.
  const bool over = of_tail && !database_.generation_alive();
  if (over) settle(known->last.sequence);
  if (of_tail && !over) {
    co_await on_worker([&] { database_.give_up(damage, end_->generation); });
    database_.wake();
  }
  if (!damage.empty() || (shipment.batch == nullptr && end_->generation != known->generation)) {
    // The old generation is there as far as it can be; the new one begins with its snapshot.
    located_ = false;
    forget_end();
  }
  if (over) throw Error(damage);
}

void Replicator::forget_end() {
  end_.reset();
  roll_at_ = 0;
  rolled_.reset();
  maintenance_->notify();
}

void Replicator::saw_end(const ReplicaEnd& end) {
  seen_end_ = GenerationEnd{end.generation, std::max(end.sequence, end.open_batch)};
}

// A generation can go: another database with this replica takes it for one that ended, and expires
// it, or somebody empties the bucket. Segments would follow no snapshot. Or a copy of this machine
// goes on with it, too, and its snapshot hides what is written in the index before.
asio::awaitable<bool> Replicator::still_there() {
  auto rest = settings_.retention_check_interval;
  if (settings_.retention.count() > 0) rest = std::min(rest, settings_.retention);
  rest = std::max<std::chrono::nanoseconds>(rest, kLeastRest);
  if (steady_clock::now() - seen_ < rest) co_return true;
  const auto snapshots = co_await replica::list_snapshots(*store_, end_->generation);
  seen_ = steady_clock::now();
  co_return !snapshots.empty() && snapshots.back().index <= end_->position.index;
}

// Of its index.
asio::awaitable<bool> Replicator::is_last(Generation generation, Position segment) {
  const auto behind =
      co_await replica::list_segments(*store_, generation, segment, Position{segment.index + 1, 0});
  co_return behind.empty();
}

asio::awaitable<bool> Replicator::ends_as_known(Generation generation) {
  co_return !before_roll_ || co_await is_last(generation, *before_roll_);
}

// The next index begins here. Others learn it from the note before a snapshot can land there: a
// process that follows this one must not go on in the old index behind that snapshot. The store is
// asked before: a copy of this machine may have gone on there, and what it wrote would be hidden.
asio::awaitable<void> Replicator::roll() {
  if (end_->sequence == roll_at_) {
    if (end_->last && !co_await is_last(end_->generation, *end_->last)) {
      located_ = false;
      co_return;
    }
    before_roll_ = end_->last;
    if (end_->position.offset > 0) end_->position = {end_->position.index + 1, 0};
    note_.end = end_;
    const bool noted = co_await save_note();
    if (noted) rolled_ = end_->position.index;
  }
  roll_at_ = 0;
  maintenance_->notify();
}

// Puts the reader behind a batch. While reading.
asio::awaitable<bool> Replicator::seek(std::uint64_t sequence) {
  folds_ = database_.folds();
  co_return co_await on_worker([&] { return reader_.seek(sequence, database_.log_files()); });
}

// At most one segment per sync interval, or fewer where a day's PUTs are bounded; the first after a
// quiet time at once, and while somebody waits.
asio::awaitable<void> Replicator::pace() {
  auto until = last_put_ + settings_.sync_interval;
  if (settings_.adaptive > 0) {
    const auto pause = note_.budget.pause(settings_.adaptive, now(), settings_.sync_interval);
    until = (pause.from_now ? steady_clock::now() : last_put_) + pause.length;
  }
  while (!stopping_ && !database_.flushing() && !database_.hurried(end_->sequence) &&
         steady_clock::now() < until) {
    co_await signal_.wait_until(until);
  }
}

// While commits wait for it, a segment waits for those that come with them.
asio::awaitable<void> Replicator::gather() {
  const auto until = group_.until(steady_clock::now());
  if (promised_) promise(group_.enough());
  while (!stopping_ && (promised_ || database_.hurried(end_->sequence)) &&
         (promised_ ? database_.tickets() : database_.captured_tickets()) < group_.enough() &&
         steady_clock::now() < until) {
    co_await signal_.wait_until(until);
  }
  if (!promised_) co_return;
  const bool more = database_.tickets() > group_.last();
  if (!more || !co_await on_worker([&] { return database_.capture_for_waiters(); })) promise(0);
}

void Replicator::promise(std::uint64_t enough) {
  promised_ = enough != 0;
  database_.promise(enough);
}

std::shared_ptr<Batch> Replicator::next_batch(std::uint64_t last) {
  auto batch = std::make_shared<Batch>();
  while (batch->empty() || end_->open_batch != 0 || batch->smaller_than(kBatchSize)) {
    if (end_->open_batch != 0) last = end_->open_batch;  // folded as it was when it was begun
    if (reader_.next_generation(last) != end_->generation) break;
    batch->add(*reader_.next(last));
    if (end_->open_batch != 0 && batch->last().sequence == end_->open_batch) break;
  }
  if (end_->open_batch != 0 && (batch->empty() || batch->last().sequence != end_->open_batch ||
                                batch->last().chain != end_->open_chain)) {
    throw Error("the outbox no longer holds batch " + std::to_string(end_->open_batch) +
                " as it was when a part of it was shipped");
  }
  return batch->empty() ? nullptr : batch;
}

// Where the note says that the replica is this database's, that is doubted only when there are
// other generations than there were: another machine may have taken over, and this one come back.
asio::awaitable<void> Replicator::guard() {
  const auto generations = co_await replica::list_generations(*store_);
  const std::uint32_t others = names_of_others(generations, end_ ? end_->generation : Generation{});
  if (!noted_ours_ || others != note_.others) {
    note_.others = 0;
    const auto last = co_await guard_replica(*store_, settings_, writer());
    if (last) seen_end_ = GenerationEnd{last->generation, last->metadata.last_sequence};
    if (!last || !another_writer(*last, writer(), now(), settings_.retention)) {
      note_.others = others;
    }
  }
  guarded_ = true;
  note_.writer = noted_writer();  // not before: it is saved with whatever error there is
}

// Finds where the replica ends and puts the reader behind it. False when the replica does not have
// the generation's snapshot: it begins there.
asio::awaitable<bool> Replicator::locate(const capture::Tail& tail) {
  if (!guarded_) co_await guard();
  std::optional<ReplicaEnd> found;
  std::string differs;
  if (end_) {
    const auto snapshots = co_await replica::list_snapshots(*store_, end_->generation);
    if (!snapshots.empty()) {
      differs = co_await look_at_end(end_->generation, snapshots, tail, found);
    } else if (end_->generation == tail.generation) {
      // It was there: the note is only written behind it.
      differs = "the replica lost the generation's snapshot";
    }
    if (end_->generation != tail.generation && (!found || !differs.empty())) {
      // What of it is not in the replica is nothing, or lost: the current one has it all.
      found.reset();
      differs.clear();
      forget_end();
    }
  }
  if (!end_) {
    auto snapshots = co_await replica::list_snapshots(*store_, tail.generation);
    if (!snapshots.empty()) {
      differs = co_await look_at_end(tail.generation, std::move(snapshots), tail, found);
    }
  }
  if (!differs.empty()) {
    co_await on_worker([&] { database_.give_up(differs, tail.generation); });
    database_.wake();
    found.reset();
  }
  if (!found) {
    forget_end();
    co_return false;
  }
  end_ = found;
  seen_ = steady_clock::now();
  // What was under way when an answer was lost is kept from folds. If it is not there it may still
  // come, until what is sent next has its key.
  if (in_flight_ <= end_->sequence) in_flight_ = 0;
  snapshot_at_ = 0;
  located_ = true;
  // With something left to write it is not known yet whether that can be done again.
  if (end_->sequence >= tail.last.sequence) {
    failing_.reset();
    takes_data_ = true;
    report({});
  }
  co_await advance(*end_, status_.commit_time);
  co_return true;
}

// Sets `found`, and puts the reader behind it. Why the outbox does not go on from there; empty: it
// does. What cannot be read is not gone on behind, as no restore would: a new generation's snapshot
// has it all.
asio::awaitable<std::string> Replicator::look_at_end(Generation generation,
                                                     std::vector<replica::Snapshot> snapshots,
                                                     const capture::Tail& tail,
                                                     std::optional<ReplicaEnd>& found) {
  try {
    found = co_await find_end(generation, end_, std::move(snapshots));
  } catch (const EndUnknown& e) {
    co_return e.what();
  }
  saw_end(*found);
  co_return co_await compare(*found, tail);
}

// Puts the reader behind the end of what the replica has. Why the outbox does not go on from there;
// empty: it does.
asio::awaitable<std::string> Replicator::compare(const ReplicaEnd& end, const capture::Tail& tail) {
  const std::uint64_t newest = std::max(end.sequence, end.open_batch);
  std::uint64_t last = tail.last.sequence;
  if (newest > last) {
    // Who had the role before may have shipped what was not seen here yet. While somebody captures
    // something large it cannot be told.
    std::string fault;
    while (!co_await on_worker([&] { return database_.look_anew(&fault); })) {
      if (!fault.empty()) throw Error(fault);
      if (stopping_) throw Error("the process ends before another one lets it look at the outbox");
      co_await signal_.wait_until(steady_clock::now() + kLookPause);
    }
    const auto known = database_.tail();
    if (known) last = known->last.sequence;
  }
  if (newest > last) {
    co_return "the replica holds batch " + std::to_string(newest) + ", which the outbox does not";
  }
  const auto reading = co_await begin_reading(signal_);
  folds_ = database_.folds();
  co_return co_await on_worker([&]() -> std::string {
    try {
      if (seek_behind(reader_, end, database_.log_files())) return {};
      return "the replica holds another history of this generation";
    } catch (const Error& e) {
      return e.what();
    }
  });
}

asio::awaitable<std::optional<ReplicaEnd>> Replicator::find_end(
    Generation generation, std::optional<ReplicaEnd> known,
    std::vector<replica::Snapshot> snapshots) {
  // Of a batch that is partly there, the replica tells which it is.
  if (known && known->open_batch != 0) known.reset();
  // With a note of where it ended, one request shows whether an answer was lost after it, and
  // whether its last segment is there still: what a replica lost is not gone on behind.
  const bool last_counts = known && known->last && known->last->index >= snapshots.back().index;
  std::optional<Position> after;
  if (known) after = replica::right_before(last_counts ? *known->last : known->position);
  auto segments = co_await replica::list_segments(*store_, generation, after);
  if (last_counts) {
    if (segments.empty() || segments.front().position != *known->last) {
      co_return co_await find_end(generation, {}, std::move(snapshots));
    }
    segments.erase(segments.begin());
  }
  // Not where a snapshot has landed behind it: the note is older, from before a crash of the
  // machine. What is written in an index before a snapshot's is not restored.
  if (segments.empty() && known && snapshots.back().index <= known->position.index) co_return known;
  if (!known) {
    note_.snapshot_time = snapshots.back().created;
    note_.snapshot_size = snapshots.back().size;
    note_.bytes_since_snapshot = 0;
    for (const auto& segment : segments) {
      if (segment.position.index >= snapshots.back().index) {
        note_.bytes_since_snapshot += segment.size;
      }
    }
    note_.retention_due = now() + settings_.retention_check_interval;
  }

  const bool from_segment =
      !segments.empty() && segments.back().position.index >= snapshots.back().index;
  const std::string key = from_segment ? names::segment_key(generation, segments.back().position)
                                       : names::snapshot_key(generation, snapshots.back().index);
  std::optional<Metadata> metadata;
  const std::string object = store_->url() + '/' + key;
  try {
    metadata = co_await replica::read_metadata(*store_, key);
  } catch (const DamagedMetadata&) {
    throw EndUnknown("the metadata of the object " + object +
                     " is damaged: a restore of that generation reaches only what is before it");
  }
  if (!metadata) {
    throw EndUnknown("the object " + object +
                     " is not as sqlstream wrote it: a restore of that generation reaches only "
                     "what is before it");
  }
  ReplicaEnd end;
  end.generation = generation;
  end.sequence = metadata->last_sequence;
  end.chain = metadata->chain;
  if (!from_segment) {
    end.position = {snapshots.back().index, 0};
    co_return end;
  }
  end.last = segments.back().position;
  end.position = {end.last->index, end.last->offset + metadata->wal_size};
  end.wal_salt = metadata->wal_salt;
  end.wal_sum = metadata->wal_sum;
  if (!metadata->ends_on_commit) {
    end.open_batch = metadata->last_sequence;
    end.open_frames = metadata->batch_frame + metadata->pages;
    end.open_chain = metadata->chain;
    end.sequence = metadata->first_sequence - 1;
    end.chain = 0;
  }
  co_return end;
}

asio::awaitable<bool> Replicator::write_snapshot(const capture::Tail& tail) {
  begins_ = true;
  const std::unique_ptr<Replicator, void (*)(Replicator*)> over(this, [](Replicator* self) {
    self->begins_ = false;
    self->database_.reconsider_role();
  });
  // A later snapshot of the generation before must not land behind this one.
  while (maintenance_->writing() && !stopping_) co_await signal_.wait();
  if (!database_.generation_alive()) co_return false;
  const std::function<bool()> wanted = [this] {
    return !stopping_ && database_.generation_alive();
  };
  std::unique_ptr<SnapshotImage> image;
  {
    const auto reading = co_await begin_reading(signal_);
    // Another replica may have it all, and would have it deleted.
    const Database::Kept kept(database_, number_, tail.wal_first);
    image = co_await begin_in_place(database_);
    if (image == nullptr) image = co_await copy_database(tail.generation, wanted);
    if (image == nullptr) co_return false;
    snapshot_at_ = image->at().sequence;
  }
  // A process that follows this one must find the batch that it ends with.
  note_.in_flight = snapshot_at_;
  co_await save_note();
  Metadata metadata = snapshot_metadata(*image);
  if (seen_end_ && seen_end_->generation != image->generation()) metadata.after = seen_end_;
  const auto stored =
      co_await upload_snapshot(*store_, *image, 0, metadata, settings_.name, wanted, {});
  if (!stored) co_return false;

  ReplicaEnd end;
  end.generation = image->generation();
  end.sequence = image->at().sequence;
  end.chain = image->at().chain;
  image.reset();
  end_ = end;
  {
    const auto reading = co_await begin_reading(signal_);
    located_ = co_await seek(end.sequence);
  }
  in_flight_ = snapshot_at_ = 0;
  seen_ = steady_clock::now();
  note_.bytes_since_snapshot = 0;
  snapshot_written(*stored);
  report({});
  co_await advance(end, metadata.last_commit);
  co_return true;
}

// A snapshot's local copy; null when it is not possible now.
asio::awaitable<std::unique_ptr<SnapshotImage>> Replicator::copy_database(
    Generation generation, const std::function<bool()>& wanted) {
  auto copy = co_await begin_snapshot(database_, number_, wanted);
  if (copy == nullptr || !co_await on_worker([&] { return copy->end(); })) co_return nullptr;
  std::string lost;
  try {
    co_await on_worker([&] { copy->apply(); });
  } catch (const Error& e) {
    lost = e.what();
  }
  if (lost.empty()) co_return copy;
  co_await on_worker([&] { database_.give_up(lost, generation); });
  database_.wake();
  co_return nullptr;
}

void Replicator::spent(std::uint64_t stored) {
  if (settings_.adaptive > 0) note_.budget.take(settings_.adaptive, now(), puts_of(stored));
}

void Replicator::snapshot_written(std::uint64_t stored) {
  spent(stored);
  last_write_ = steady_clock::now();
  note_.snapshot_time = status_.snapshot_time = now();
  note_.snapshot_size = stored;
  // What is older can go once this one is old enough.
  if (note_.retention_due == Time{}) note_.retention_due = now() + settings_.retention;
  database_.set_status(number_, status_);
}

Metadata Replicator::snapshot_metadata(const SnapshotImage& image) const {
  Metadata metadata;
  metadata.kind = Metadata::Kind::snapshot;
  metadata.first_commit = metadata.last_commit =
      Time(std::chrono::nanoseconds(image.at().last_commit));
  metadata.page_size = image.at().page_size;
  metadata.pages = metadata.database_size = image.at().database_size;
  metadata.first_sequence = metadata.last_sequence = image.at().sequence;
  metadata.chain = image.at().chain;
  metadata.source_salt = image.at().source.salt;
  metadata.source_frame = image.at().source.frame;
  metadata.host = host_;
  metadata.database = database_.path();
  return metadata;
}

// On a worker, at one go: for a small batch, going there is what takes the time.
Replicator::Shipment Replicator::next_shipment(std::uint64_t last, NoteToSave saving) {
  Shipment next;
  next.batch = next_batch(last);
  if (next.batch == nullptr) return next;
  // A process that follows this one must find a batch's end there.
  saving.note.in_flight = next.batch->last().sequence;
  write_note(saving);
  static EffortBudget budget;
  // Not while somebody waits for it.
  const bool high = !database_.hurried(end_->sequence) &&
                    budget.take(next.batch->image_bytes(), steady_clock::now());
  const auto effort = high ? lz4::Effort::high : lz4::Effort::fast;
  next.encoder = std::make_unique<SegmentEncoder>(next.batch, *end_, host_, database_.path(),
                                                  SegmentEncoder::kObjectSize, effort);
  next.object = next.encoder->next();
  return next;
}

asio::awaitable<bool> Replicator::write(Shipment& shipment) {
  SegmentObject& object = shipment.object;
  while (true) {
    last_put_ = steady_clock::now();
    if (!co_await put(object)) {
      located_ = false;  // what is there decides how it goes on
      co_return false;
    }
    end_ = object.end;
    failing_.reset();
    takes_data_ = true;
    report({});
    co_await advance(object.end, object.commit_time);
    if (shipment.encoder->done()) co_return true;
    if (stopping_) co_return false;  // whoever goes on continues it
    object = {};                     // two of them take much memory
    object = co_await on_worker([&] { return shipment.encoder->next(); });
  }
}

// False when the key is there already: from an answer that was lost, or from somebody else.
asio::awaitable<bool> Replicator::put(SegmentObject& object) {
  PutOptions options;
  options.if_absent = true;
  options.modified = object.commit_time;
  const auto size = object.body.size();
  const std::string position = describe_position(object.end.generation, object.begin);
  const auto begun = steady_clock::now();
  if (status_.error.empty()) {
    log::info("write wal segment",
              {{"db", database_.path()}, {"replica", settings_.name}, {"position", position}});
  }
  try {
    co_await store_->put(object.key, std::move(object.body), options);
  } catch (const StoreError& e) {
    if (e.kind() != StoreError::Kind::exists) throw;
    co_return false;
  }
  spent(size);
  note_.bytes_since_snapshot += size;
  ++note_.unfolded;
  maintenance_->shipped(object.end.generation,
                        {object.begin, size, now(), 0, object.end.position.offset});
  log::info("wal segment written", {{"db", database_.path()},
                                    {"replica", settings_.name},
                                    {"position", position},
                                    {"sz", std::to_string(size)},
                                    {"elapsed", elapsed_since(begun)}});
  co_return true;
}

asio::awaitable<void> Replicator::advance(ReplicaEnd end, Time commit_time) {
  last_write_ = steady_clock::now();
  note_.end = end;
  saw_end(end);
  note_.in_flight = in_flight_ > end.sequence ? in_flight_ : 0;
  note_.boot = boot_hash();
  note_.commit_time = commit_time;
  const NoteToSave saving = note_to_save();
  group_.shipped(database_.tickets(), steady_clock::now());
  database_.shipped(number_, {end.sequence, commit_time});  // commits wait for no file of ours
  maintenance_->announce();
  co_await on_worker([&] {
    write_note(saving);
    database_.settle(number_, end.sequence);
    try {
      database_.trim();
    } catch (const std::system_error&) {  // it comes here again, and this one is in the replica
    }
  });
  status_.generation = end.generation;
  status_.position = end.position;
  status_.sequence = end.sequence;
  status_.settled = std::max(status_.settled, end.sequence);
  status_.commit_time = commit_time;
  database_.set_status(number_, status_);
  maintenance_->notify();
  validation_->notify();
}

asio::awaitable<bool> Replicator::save_note() {
  // A copy: note_ changes while a worker writes.
  const NoteToSave saving = note_to_save();
  co_return co_await on_worker([&] { return write_note(saving); });
}

// On a worker. Two may be written at once, and the older one must not stay.
bool Replicator::write_note(const NoteToSave& saving) {
  const std::lock_guard lock(saving_);
  if (saving.number < saved_notes_) return true;
  try {
    // Another outbox has notes of its own, and sequences; and one that is gone needs none.
    const bool there = database_.is_outbox_there();
    note_unsaved_.store(there);
    if (!there || !save_replica_note(note_path_, database_.path(), saving.note)) return false;
    note_unsaved_.store(false);
  } catch (const Error&) {
    note_unsaved_.store(false);  // the database was deleted
    return false;
  }
  saved_notes_ = saving.number;
  return true;
}

void Replicator::settle(std::uint64_t sequence) {
  if (status_.settled >= sequence) return;
  status_.settled = sequence;
  database_.set_status(number_, status_);
}

// Once per change of state: an outage is two lines in the log, however long.
void Replicator::report(const std::string& error) {
  note_.error = error;  // of a process before this one, too
  if (status_.error == error) return;
  if (error.empty()) {
    log::info("replica takes data again", {{"db", database_.path()}, {"replica", settings_.name}});
  } else {
    log::error(error, {{"db", database_.path()}, {"replica", settings_.name}});
    if (status_.error.empty()) status_.error_since = now();
  }
  status_.error = error;
  note_.error_since = status_.error_since;
  database_.set_status(number_, status_);
}

}  // namespace sqlstream
