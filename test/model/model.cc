// Capture and the outbox, and what must hold in every state.

#include "test/model/model.h"

#include <algorithm>
#include <cstring>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "capture/continuity.h"

namespace sqlstream::model {
namespace {

// The WAL's file, and the wal-index over it, as the product's proofs look them up.
class Evidence final : public capture::WalEvidence {
 public:
  Evidence(const State& s, Bug bug, const Position& last) : s_(s), bug_(bug), last_(last) {}

  std::optional<wal::FrameHeader> frame(std::uint32_t number) const override {
    wal::FrameHeader found;
    if (bug_ == Bug::frame_not_compared) {
      found.salt = {last_.salt, 0};
      found.sum = {last_.sum, 0};
      return found;
    }
    if (number > s_.wal.frames) return std::nullopt;
    const Frame& frame = s_.wal.frame[number - 1];
    found.page = frame.page + 1U;
    found.commit_size = frame.ends != 0 ? kPages : 0;
    found.salt = {frame.salt, 0};
    found.sum = {frame_sum(frame.salt, static_cast<int>(number), frame.commit), 0};
    return found;
  }

  std::optional<std::uint32_t> commits() const override {
    const Position& header = s_.index.header;
    if (bug_ == Bug::commits_not_counted) {
      return static_cast<std::uint32_t>(header.change) - last_.change;
    }
    std::uint32_t commits = 0;
    const Frame* before = nullptr;
    for (int i = 0; i < header.frame; ++i) {
      const Frame& frame = s_.wal.frame[i];
      if (i >= s_.wal.frames || frame.salt != header.salt) return std::nullopt;
      const bool same = before != nullptr && std::memcmp(before, &frame, sizeof frame) == 0;
      if (same && bug_ != Bug::padding_counts) return std::nullopt;
      commits += frame.ends;
      before = &frame;
    }
    return commits;
  }

 private:
  const State& s_;
  Bug bug_;
  const Position& last_;
};

capture::SourcePosition position(const Position& p) {
  return {{p.salt, 0}, p.frame, p.change, {p.sum, 0}};
}

std::uint32_t bytes_of(Byte page_size) {
  return page_size * 4096U;
}

capture::WalIndexHeader header_of(const Position& p, Byte page_size) {
  capture::WalIndexHeader header;
  header.change = p.change;
  header.page_size = p.frame != 0 ? bytes_of(page_size) : 0;
  header.frames = p.frame;
  header.pages = kPages;
  header.sum = {p.sum, 0};
  header.salt = {p.salt, 0};
  return header;
}

capture::FileIdentity identity(Byte version) {
  if (version == 0) return {};
  return {1, 1, kPages * 4096, version, version};
}

capture::Record record_of(const Record& r) {
  capture::Record record;
  record.kind = r.kind == Kind::batch   ? capture::RecordKind::batch
                : r.kind == Kind::reset ? capture::RecordKind::reset
                                        : capture::RecordKind::clean;
  record.page_size = bytes_of(r.page_size);
  record.source = position(r.source);
  record.previous = position(r.previous);
  record.identity = identity(r.identity);
  return record;
}

std::uint32_t mix(std::uint32_t seed, const void* data, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    seed = (seed ^ static_cast<const Byte*>(data)[i]) * 16777619U;
  }
  return seed ^ seed >> 15;
}

int rank(const State& s, const Image& image) {
  for (int i = 0; i < s.reals; ++i) {
    if (s.real[i] == (image[0] | image[1] << 2 | image[2] << 4)) return i;
  }
  return -1;
}

}  // namespace

std::uint16_t frame_sum(Byte salt, int number, Byte commit) {
  return static_cast<std::uint16_t>(salt << 8 | number << 4 | commit << 1 | 1);
}

bool is_batch(const Record& record) {
  return record.kind == Kind::batch || record.kind == Kind::damaged;
}

const Record* tail_of(const State& s) {
  const auto end = std::find_if(s.records.begin(), s.records.end(), [](const Record& r) {
    return r.kind == Kind::none || r.kind == Kind::torn;
  });
  return end == s.records.begin() ? nullptr : &*(end - 1);
}

const Record& last_batch(const State& s) {
  const Record* record = tail_of(s);
  while (!is_batch(*record)) --record;
  return *record;
}

bool alive(const State& s) {
  const Record* tail = tail_of(s);
  return tail != nullptr && (s.ended >> tail->generation & 1) == 0;
}

void give_up(State& s, Byte generation) {
  s.ended = static_cast<Byte>(s.ended | 1U << generation);
}

void append(State& s, Record record) {
  const Record* tail = tail_of(s);
  const bool continues = tail != nullptr && tail->generation == record.generation;
  record.chain = continues ? tail->chain : record.generation;
  record.chain = mix(record.chain, &record, sizeof record);
  s.records.at(tail == nullptr ? 0 : tail - s.records.data() + 1) = record;
}

void apply(Image& image, const Image& over) {
  for (int i = 0; i < kPages; ++i) {
    if (over[i] != kNoImage) image[i] = over[i];
  }
}

int unshipped(const State& s) {
  const Byte kept_from = std::max(s.note_end, s.settled);
  return static_cast<int>(std::count_if(
      s.records.begin(), s.records.end(),
      [&](const Record& record) { return is_batch(record) && record.sequence > kept_from; }));
}

Image source_image(const State& s) {
  Image image = s.file.image;
  for (int i = 0; i < s.index.header.frame; ++i) {
    image[s.wal.frame[i].page] = s.wal.frame[i].commit;
  }
  return image;
}

std::uint64_t Model::fingerprint(const State& state) {
  State other = state;
  std::swap(other.process[0], other.process[1]);
  return std::min(XXH3_64bits(&state, sizeof state), XXH3_64bits(&other, sizeof other));
}

// The lock of all processes, and the mutex of the own.
bool Model::lock_is_free(const State& s, int p) const {
  return s.process[p].capturing == 0 && (s.inherited & 1) == 0 &&
         (s.process[1 - p].capturing == 0 || has(Bug::no_capture_lock));
}

// What a process that died left half written is cut off; another file ends the generation.
void Model::refresh(State& s) const {
  for (Record& record : s.records) {
    if (record.kind != Kind::torn) continue;
    if (has(Bug::torn_record_counts)) {
      record.kind = Kind::batch;
    } else {
      record = {};
    }
  }
  const bool replaced = alive(s) && tail_of(s)->inode != s.file.inode;
  if (replaced && !has(Bug::replaced_file_goes_on)) give_up(s, tail_of(s)->generation);
}

// The first frame that is not captured yet; 0 when the generation cannot go on.
Byte Model::prove(const State& s, const Process& me) const {
  const Record& tail = *tail_of(s);
  capture::Known known;
  known.last = record_of(tail);
  known.anchored = me.anchored != 0 || has(Bug::counter_outlives_the_index);
  const bool anchor_holds = me.anchored != 0 && me.anchor_chain == tail.chain;
  const Position& last = anchor_holds ? me.anchor : tail.source;
  known.source = position(last);
  if (s.booted == 0 && !has(Bug::identity_outlives_the_boot)) known.last.identity = {};
  if (has(Bug::undone_reset_not_found)) known.last.previous = {};
  auto header = header_of(s.index.header, s.file.page_size);
  if (has(Bug::page_size_not_compared)) header.page_size = known.last.page_size;
  if (has(Bug::empty_reset_is_trusted) && header.frames == 0) {
    header.change = known.source.change;
    header.sum = known.source.sum;
  }
  const bool trusted = has(Bug::file_identity_is_trusted) || has(Bug::page_size_not_compared);
  const auto file = trusted ? known.last.identity : identity(s.file.version);
  return static_cast<Byte>(
      prove_continuity(known, header, file, Evidence(s, bug_, last)).first.value_or(0));
}

// Not where they follow each other fast, and not before the store has what a full outbox keeps.
bool Model::may_begin(const State& s, const Process& me) const {
  if (s.full != 0 && !has(Bug::begun_when_full)) return false;
  const Byte starts = has(Bug::starts_counted_alone) ? me.starts : s.starts;
  return starts < kQuickStarts || has(Bug::begun_without_a_pause);
}

// Under the capture lock: reads the wal-index, and decides what of the WAL is to be read.
void Model::begin_capture(State& s, int p) const {
  refresh(s);
  Process& me = s.process[p];
  const Position& header = s.index.header;
  const auto up_to_date = [&] {
    me.anchor_chain = tail_of(s)->chain;
    me.anchor = header;
    me.anchored = s.booted = 1;
    me.from = 0;
  };
  me.begins = !alive(s);
  me.from = 1;
  if (me.begins == 0) {
    if (is_unchanged(position(tail_of(s)->source), header_of(header, s.file.page_size))) {
      return up_to_date();
    }
    me.from = prove(s, me);
    if (me.from > header.frame) return up_to_date();
    if (me.from == 0) {
      give_up(s, tail_of(s)->generation);
      me.begins = me.from = 1;
    }
  }
  if (me.begins != 0 && !may_begin(s, me)) {
    me.begins = me.from = 0;
    return;
  }
  me.capturing = 1;
  me.seen = header;
  for (int i = 0; i < header.frame; ++i) me.seen_pages[i] = s.wal.frame[i].page;
}

// Reads the frames and appends them, if they are still what the wal-index said.
bool Model::end_capture(State& s, int p) const {
  Process& me = s.process[p];
  Record record;
  record.kind = Kind::batch;
  record.source = me.seen;
  record.image.fill(kNoImage);
  bool valid = s.index.header.salt == me.seen.salt && s.index.header.frame >= me.seen.frame;
  for (int i = me.from - 1; i < me.seen.frame; ++i) {
    const Frame& frame = s.wal.frame[i];
    valid = valid && frame.salt == me.seen.salt && frame.page == me.seen_pages[i];
    record.image[me.seen_pages[i]] = frame.commit;
  }
  const bool begins = me.begins != 0;
  me.capturing = me.begins = me.from = 0;
  me.seen = {};
  me.seen_pages = {};
  if (!valid && !has(Bug::unvalidated_capture)) return false;
  const Record* tail = tail_of(s);
  const bool fits = begins || limits_.bound == 0 || unshipped(s) < limits_.bound;
  const bool dropped = !fits && has(Bug::dropped_when_full);
  if (!fits && !dropped && !has(Bug::bound_ignored)) {
    s.full = s.excused = 1;
    give_up(s, tail->generation);
    return false;
  }
  if (begins) ++(has(Bug::starts_counted_alone) ? me.starts : s.starts);
  if (dropped) record.kind = Kind::reset;
  record.page_size = s.file.page_size;
  record.sequence = static_cast<Byte>(tail == nullptr ? 1 : tail->sequence + (dropped ? 0 : 1));
  record.generation = begins ? ++s.generations : tail->generation;
  record.inode = begins ? s.file.inode : tail->inode;
  if (begins && record.source.frame == 0) record.identity = s.file.version;
  append(s, record);
  me.anchored = s.booted = 1;
  return true;
}

// All of it at once: what can come in between comes in between of one in the background.
bool Model::capture(State& s, int p) const {
  begin_capture(s, p);
  return s.process[p].capturing == 0 || end_capture(s, p);
}

void Model::note_new_wal(State& s, int p) const {
  refresh(s);
  Process& me = s.process[p];
  if (!alive(s) || s.index.header.frame != 0) return;
  const Record last = *tail_of(s);
  if (me.new_salt == last.source.salt) return;
  if (prove(s, me) == 0 && !has(Bug::wal_overwritten_unnoticed)) return;
  me.anchored = 1;
  Record record;
  record.kind = Kind::reset;
  record.generation = last.generation;
  record.sequence = last.sequence;
  record.inode = last.inode;
  record.page_size = last.page_size;
  record.source = s.index.header;
  record.source.salt = me.new_salt;
  const bool again = last.kind == Kind::reset && last.source.frame == 0;
  record.previous = again ? last.previous : last.source;
  const bool known = last.identity == s.file.version && s.booted != 0;
  if (known || (again && !has(Bug::second_reset_unstamped))) record.identity = s.file.version;
  append(s, record);
}

void Model::note_clean_close(State& s) const {
  refresh(s);
  if (!alive(s)) return;
  Record record = *tail_of(s);
  if (record.identity == s.file.version && s.booted != 0) return;
  record.kind = Kind::clean;
  record.identity = s.file.version;
  record.image = {};
  append(s, record);
}

const std::vector<Successor>& Model::successors(const State& state) {
  successors_.clear();
  from_ = &state;
  const auto captures_in_background = [&](const Process& process) {
    if (has(Bug::no_capture_in_background)) return false;
    return process.open != 0 || (process.role != 0 && has(Bug::role_maps_by_itself));
  };
  for (int p = 0; p < kProcesses; ++p) {
    const Process& me = state.process[p];
    if (me.capturing != 0) {
      if (me.open != 0) {
        add("reads frames and appends them", p, false, [&](State& s) { end_capture(s, p); });
      } else {
        add("has looked", p, false, [&](State& s) { s.process[p].capturing = 0; });
      }
    } else if (captures_in_background(me) && state.index.valid != 0 && lock_is_free(state, p)) {
      add("captures: reads the wal-index", p, false, [&](State& s) { begin_capture(s, p); });
    }
    application(p);
    shipping(p);
    accidents(p);
  }
  if (state.starts >= kQuickStarts && !alive(state)) {
    add("The pause between generations is over", 0, false, [](State& s) {
      --s.starts;
      ++s.pauses;
    });
  }
  late_puts();
  power_failure();
  strangers();
  outside();
  return successors_;
}

const char* Model::violation(const State& s, bool quiet) const {
  if (s.rewritten != 0) return "a key was written again with other content";
  if (s.generations > 1 && s.excused == 0) return "a generation ended without need";
  if (s.expired_waits > limits_.expired_waits) return "a generation cost more than one wait";
  if (s.generations > kQuickStarts + s.pauses) return "generations follow each other at once";
  if (limits_.bound != 0 && unshipped(s) > limits_.bound) return "the outbox is over its bound";
  if (s.unfounded != 0) return "a commit was told to be in the replica, and is not";
  for (const Process& process : s.process) {
    const bool reads = process.capturing != 0 && process.from != 0;
    if (reads && process.open == 0) return "a capture uses what is unmapped";
  }
  for (const Stored& stored : s.stored) {
    const bool begun = stored.snapshot.last != 0;
    if (!begun && stored.segments[0].last != 0) return "a segment is there before its snapshot";
    if (!begun) continue;
    Image image = stored.snapshot.image;
    int reached = rank(s, image);
    if (reached < 0) return "the snapshot is no state that was committed";
    Byte sequence = stored.snapshot.last;
    Byte offset = 0;
    for (const Object& segment : stored.segments) {
      if (segment.last == 0) break;
      if (segment.offset != offset || segment.first != sequence + 1) return "a gap in the replica";
      if (segment.page_size != stored.snapshot.page_size) return "a generation of two page sizes";
      apply(image, segment.image);
      const int next = rank(s, image);
      if (next < 0) return "the replica restores to no state that was committed";
      if (next < reached) return "the replica goes backwards";
      reached = next;
      sequence = segment.last;
      offset += segment.length;
    }
    if (sequence < stored.reported) return "less is in the replica than was reported";
  }
  const bool in_use = std::any_of(s.process.begin(), s.process.end(),
                                  [](const Process& process) { return process.open; });
  if (!quiet || !in_use) return nullptr;
  for (const Process& process : s.process) {
    if (process.step != Step::idle) return "all is quiet, and the application waits";
  }
  if (limits_.silent_store) return nullptr;
  if (!alive(s)) return "all is quiet, and no generation goes on";
  const Stored& stored = s.stored[tail_of(s)->generation - 1];
  Image image = stored.snapshot.image;
  for (const Object& segment : stored.segments) {
    if (segment.last != 0) apply(image, segment.image);
  }
  const Image source = source_image(s);
  // A PUT that outlived the machine may have brought what the machine lost: the next one finds it.
  const bool ahead = s.power_failures != 0 && rank(s, image) > rank(s, source);
  if (stored.snapshot.last == 0 || (image != source && !ahead)) {
    return "all is quiet, and the replica lacks a commit";
  }
  return nullptr;
}

}  // namespace sqlstream::model
