// From the outbox to objects, and back: random histories, folded and split at random, against a
// plain model; and where a reader finds itself among log files.

#include "shipper/batch.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "format/lz4_frame.h"
#include "format/names.h"
#include "test/unit/capture/support.h"
#include "test/unit/format/random.h"

using namespace sqlstream;
using capture::LogFile;
using capture::Outbox;
using capture::Record;
using sqlstream::testing::image_of;
using sqlstream::testing::TempFolder;

namespace {

using State = std::vector<Bytes>;  // page n at n - 1

/// An outbox that is written as captures would, and what the database was after each batch.
class Source {
 public:
  explicit Source(std::uint32_t page_size) : page_size_(page_size) {
    std::ofstream(folder_.file("app.db")) << "x";
    outbox_.emplace(capture::OutboxPlace::of(folder_.file("app.db"), ""));
    const auto lock = outbox_->lock(std::chrono::seconds(1));
    outbox_->refresh();
    generation();
  }

  /// Begins another one.
  void generation() {
    Record record = record_of(1);
    REQUIRE(outbox_->begin_generation(Generation::random(), {1, 2, 3, 4, 5}, record, {}, {}));
    states_[record.sequence] = State(1, Bytes(page_size_));
  }

  /// The next batch: these pages change, `size` is what it leaves.
  void batch(std::vector<std::uint32_t> pages, std::uint32_t size) {
    ++version_;
    State state = states_.rbegin()->second;
    state.resize(size, Bytes(page_size_));
    std::erase_if(pages, [&](std::uint32_t page) { return page > size; });
    for (const std::uint32_t page : pages) state[page - 1] = image_of(page, page_size_, version_);
    const auto images = [&](std::size_t first, std::size_t count, std::span<std::uint8_t> out) {
      for (std::size_t i = 0; i < count; ++i) {
        const Bytes& image = state[pages[first + i] - 1];
        std::copy(image.begin(), image.end(),
                  out.begin() + static_cast<std::ptrdiff_t>(i * page_size_));
      }
      return true;
    };
    Record record = record_of(size);
    REQUIRE(outbox_->append_batch(record, pages, images));
    states_[record.sequence] = std::move(state);
  }

  /// A WAL was begun anew: no batch.
  void mark() {
    Record record = record_of(0);
    record.kind = capture::RecordKind::reset;
    outbox_->append_mark(record);
  }

  /// What the snapshot that begins the replica leaves to be shipped.
  ReplicaEnd beginning() const {
    ReplicaEnd end;
    end.generation = outbox_->tail()->generation;
    end.sequence = states_.begin()->first;
    return end;
  }

  OutboxReader reader_behind(std::uint64_t sequence) const {
    OutboxReader reader(outbox_->directory());
    REQUIRE(reader.seek(sequence, outbox_->log_files()));
    return reader;
  }

  Outbox& outbox() { return *outbox_; }
  std::uint64_t last() const { return states_.rbegin()->first; }
  const State& state(std::uint64_t sequence) const { return states_.at(sequence); }
  std::uint32_t page_size() const { return page_size_; }

 private:
  Record record_of(std::uint32_t size) const {
    Record record;
    record.page_size = page_size_;
    record.database_size = size;
    record.commits = 1;
    record.source.frame = version_;
    return record;
  }

  TempFolder folder_;
  std::uint32_t page_size_;
  std::uint32_t version_ = 0;
  std::optional<Outbox> outbox_;
  std::map<std::uint64_t, State> states_;
};

/// What a restore makes of the objects: frames count once a commit frame is behind them.
class Replica {
 public:
  Replica(State state, std::uint64_t sequence) : state_(std::move(state)), sequence_(sequence) {}

  void take(const SegmentObject& object) {
    const auto name = names::parse_segment_key(object.key);
    const auto metadata = decode_metadata(object.body);
    REQUIRE(name);
    REQUIRE(metadata);
    REQUIRE(name->position == expected_);
    REQUIRE(metadata->batch_frame == pending_.size());
    lz4::Decompressor decompressor;
    std::uint64_t bytes = 0;
    std::uint32_t frames = 0;
    bool committed = false;
    decompressor.write(object.body, [&](ByteView data) {
      bytes += data.size();
      while (const auto frame = decoder_.next(data)) {
        REQUIRE_FALSE(committed);
        REQUIRE((pending_.empty() || pending_.back().first < frame->page));
        pending_.emplace_back(frame->page, Bytes(frame->data.begin(), frame->data.end()));
        ++frames;
        if (frame->commit_size != 0) {
          commit(frame->commit_size);
          committed = true;
        }
      }
    });
    decompressor.finish();
    REQUIRE(metadata->ends_on_commit == committed);
    REQUIRE(metadata->pages == frames);
    REQUIRE(metadata->wal_size == bytes);
    REQUIRE(metadata->wal_sum == decoder_.sum());
    REQUIRE(metadata->first_sequence == sequence_ + 1);
    if (committed) sequence_ = metadata->last_sequence;
    expected_.offset += bytes;
  }

  const State& state() const { return state_; }
  std::uint64_t sequence() const { return sequence_; }
  bool in_the_middle() const { return !pending_.empty(); }

 private:
  void commit(std::uint32_t size) {
    state_.resize(size, Bytes(state_.front().size()));
    for (auto& [page, image] : pending_) {
      REQUIRE(page <= size);
      state_[page - 1] = std::move(image);
    }
    pending_.clear();
  }

  State state_;
  std::uint64_t sequence_;
  Position expected_;
  wal::Decoder decoder_;
  std::vector<std::pair<std::uint32_t, Bytes>> pending_;
};

/// The fold that goes on where `end` says, of at most `most` batches unless one is open there.
std::shared_ptr<Batch> fold(const Source& source, const ReplicaEnd& end, std::uint32_t most) {
  OutboxReader reader = source.reader_behind(end.sequence);
  auto batch = std::make_shared<Batch>();
  const std::uint64_t last = end.open_batch != 0 ? end.open_batch : source.last();
  for (std::uint32_t i = 0; i < most || end.open_batch != 0; ++i) {
    const auto entry = reader.next(last);
    if (!entry) break;
    batch->add(*entry);
  }
  REQUIRE(reader.batch_chain() == batch->last().chain);
  return batch;
}

void random_batch(test::Random& random, Source& source) {
  static constexpr std::uint32_t kMost = 40;
  auto size = static_cast<std::uint32_t>(source.state(source.last()).size());
  if (random.one_in(3)) size = random.between(1, kMost);
  std::vector<std::uint32_t> pages = {1};  // as every commit of SQLite's
  for (std::uint32_t page = 2; page <= size; ++page) {
    if (random.one_in(2)) pages.push_back(page);
  }
  std::shuffle(pages.begin(), pages.end(), random.engine());
  source.batch(std::move(pages), size);
}

}  // namespace

TEST_CASE("random histories, folded and split over objects, broken off and gone on with") {
  test::Random random("split batches");
  int split = 0;
  int broken_off = 0;
  for (int round = 0; round < 150; ++round) {
    CAPTURE(round);
    Source source(512);
    const std::uint32_t batches = random.between(1, 15);
    for (std::uint32_t i = 0; i < batches; ++i) {
      random_batch(random, source);
      if (random.one_in(4)) source.mark();
    }
    ReplicaEnd end = source.beginning();
    Replica replica(source.state(end.sequence), end.sequence);
    while (end.sequence < source.last()) {
      const std::uint64_t object_size = random.between(1, 12) * (512 + wal::kFrameHeaderSize);
      SegmentEncoder encoder(fold(source, end, random.between(1, 5)), end, "host", "app.db",
                             object_size);
      for (bool first = true; !encoder.done(); first = false) {
        // A process that ends here leaves the replica with what was put so far.
        if (!first && random.one_in(3)) {
          ++broken_off;
          break;
        }
        const SegmentObject object = encoder.next();
        replica.take(object);
        end = object.end;
        if (replica.in_the_middle()) ++split;
        REQUIRE(end.sequence == replica.sequence());
        REQUIRE(replica.state() == source.state(replica.sequence()));
      }
    }
  }
  CHECK(split > 100);
  CHECK(broken_off > 20);
}

TEST_CASE("the chain after a batch is told by the batch, whatever follows it") {
  constexpr std::uint32_t kPageSize = 65536;
  constexpr std::uint32_t kPages = (16 << 20) / kPageSize + 1;  // more than a log file holds
  Source source(kPageSize);
  std::vector<std::uint32_t> pages(kPages);
  for (std::uint32_t i = 0; i < kPages; ++i) pages[i] = i + 1;
  source.batch(pages, kPages);
  const std::uint64_t full = source.last();
  const std::uint64_t chain = source.outbox().tail()->last.chain;
  source.mark();
  REQUIRE(source.outbox().tail()->last.chain != chain);
  CHECK(source.reader_behind(full).batch_chain() == chain);

  // The next one begins a log file, behind the mark.
  source.batch({1}, kPages);
  REQUIRE(source.outbox().log_files().size() == 2);
  CHECK(source.reader_behind(full).batch_chain() == chain);
  CHECK(source.reader_behind(full + 1).batch_chain() == source.outbox().tail()->last.chain);

  // The header behind it tells it when the batch's own file is gone.
  source.outbox().trim(full);
  REQUIRE(source.outbox().log_files().size() == 1);
  OutboxReader reader = source.reader_behind(full);
  CHECK(reader.batch_chain() == chain);
  REQUIRE(reader.next(full + 1));
  CHECK(reader.batch_chain() == source.outbox().tail()->last.chain);
}

TEST_CASE("a replica's end is found by its generation, its sequence and its chain") {
  Source source(512);
  source.batch({1}, 2);
  source.mark();
  source.batch({2}, 2);
  source.batch({1, 2}, 2);
  const auto tail = source.outbox().tail();
  OutboxReader reader(source.outbox().directory());
  const auto stands = [&](const ReplicaEnd& end) {
    return seek_behind(reader, end, source.outbox().log_files());
  };
  ReplicaEnd last;
  last.generation = tail->generation;
  last.sequence = source.last();
  last.chain = tail->last.chain;
  CHECK(stands(last));
  CHECK_FALSE(reader.next(source.last()));
  ReplicaEnd other = last;
  ++other.chain;
  CHECK_FALSE(stands(other));
  other = last;
  other.generation = Generation::random();
  CHECK_FALSE(stands(other));

  // In the midst of a batch the chain is that behind it; the reader stands before it.
  ReplicaEnd open = last;
  open.sequence = source.last() - 2;
  open.chain = 0;
  open.open_batch = source.last();
  open.open_frames = 1;
  open.open_chain = last.chain;
  REQUIRE(stands(open));
  REQUIRE(reader.next(source.last()));
  CHECK(reader.next(source.last())->found.record.sequence == source.last());
  other = open;
  ++other.open_chain;
  CHECK_FALSE(stands(other));

  // Of a generation that ended, there is something only before its last batch.
  ReplicaEnd before = last;
  before.sequence = source.last() - 1;
  before.chain = source.reader_behind(before.sequence).batch_chain();
  source.generation();
  source.batch({1}, 1);
  CHECK(stands(before));
  CHECK(stands(open));
  CHECK_FALSE(stands(last));
  ++before.chain;
  CHECK_FALSE(stands(before));
  // The end of the other one, from before a crash, where this one has gone on with its sequences.
  before.sequence = source.last();
  CHECK_FALSE(stands(before));
  // The last batch of a generation, in the midst of which a replica ends, has another one behind
  // it.
  open.open_chain ^= 1;
  CHECK_FALSE(stands(open));
}
