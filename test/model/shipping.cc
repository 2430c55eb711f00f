// The shipping role, snapshots, PUTs and their answers.

#include <algorithm>
#include <cstring>
#include <utility>

#include "test/model/model.h"

namespace sqlstream::model {
namespace {

// Steps with the store and steps of a commit or a capture neither see nor hinder each other, so one
// order of them stands for all: the latter come to their end first. Limits::every_order shows it.
bool store_steps_may_wait(const State& s, const Limits& limits) {
  return !limits.every_order &&
         std::any_of(s.process.begin(), s.process.end(), [](const Process& process) {
           return process.capturing != 0 || process.step != Step::idle;
         });
}

// The first batch of the source's WAL in use: what came before is in the database file.
Byte wal_first(const State& s) {
  const Record& tail = *tail_of(s);
  Byte first = 0;
  Byte salt = 0;
  for (const Record& record : s.records) {
    if (&record > &tail || record.generation != tail.generation) continue;
    if (!is_batch(record)) {
      first = record.sequence + 1;
    } else if (first == 0 || record.source.salt != salt) {
      first = record.sequence;
    }
    salt = record.source.salt;
  }
  return first;
}

const Record* batch_of(const State& s, Byte sequence) {
  const auto found = std::find_if(s.records.begin(), s.records.end(), [&](const Record& record) {
    return is_batch(record) && record.sequence == sequence;
  });
  return found == s.records.end() ? nullptr : &*found;
}

// The first batch behind it.
const Record* batch_behind(const State& s, Byte sequence) {
  const auto found = std::find_if(s.records.begin(), s.records.end(), [&](const Record& record) {
    return is_batch(record) && record.sequence > sequence;
  });
  return found == s.records.end() ? nullptr : &*found;
}

const Object& last_object(const Stored& stored) {
  const Object* last = &stored.snapshot;
  for (const Object& segment : stored.segments) {
    if (segment.last != 0) last = &segment;
  }
  return *last;
}

void forget_end(Process& me) {
  me.located = me.end_generation = me.end_sequence = me.end_offset = 0;
}

Byte newest(const Image& image) {
  Byte newest = 0;
  for (const Byte commit : image) {
    if (commit != kNoImage) newest = std::max(newest, commit);
  }
  return newest;
}

// Who waits for a commit learns that it is in the replica. Of an older generation nobody waits:
// what of it survived is in the snapshot.
void tell(State& s, const Process& me) {
  Byte told = 0;
  for (const Record& record : s.records) {
    if (is_batch(record) && record.generation >= me.end_generation &&
        record.sequence <= me.end_sequence) {
      told = std::max(told, newest(record.image));
    }
  }
  const Stored& stored = s.stored[me.end_generation - 1];
  Byte there = newest(stored.snapshot.image);
  for (const Object& segment : stored.segments) {
    if (segment.last != 0) there = std::max(there, newest(segment.image));
  }
  if (there < told) s.unfounded = 1;
}

// Nobody else changes the file unseen.
bool watched_or_closed(const State& s, int p) {
  const bool watched = s.process[p].open != 0 && s.index.valid != 0;
  return watched || (s.booted != 0 && tail_of(s)->identity == s.file.version);
}

// A record of that generation, `first` or a later one, cannot be read.
bool is_damaged(const State& s, Byte generation, int first) {
  return std::any_of(s.records.begin(), s.records.end(), [&](const Record& record) {
    return record.kind == Kind::damaged && record.generation == generation &&
           record.sequence >= first;
  });
}

// All batches of the shipped generation that the replica does not have, as one segment.
Put next_segment(const State& s, const Process& me) {
  Put put;
  Object& segment = put.object;
  segment.image.fill(kNoImage);
  for (const Record& record : s.records) {
    if (record.kind != Kind::batch || record.generation != me.end_generation ||
        record.sequence <= me.end_sequence) {
      continue;
    }
    if (segment.first == 0) segment.first = record.sequence - record.folded;
    segment.last = record.sequence;
    segment.chain = record.chain;
    segment.page_size = record.page_size;
    apply(segment.image, record.image);
  }
  if (segment.last == 0) return {};
  put.generation = me.end_generation;
  segment.offset = me.end_offset;
  segment.length = static_cast<Byte>(
      1 + kPages - std::count(segment.image.begin(), segment.image.end(), kNoImage));
  return put;
}

}  // namespace

void Model::shipping(int p) {
  const State& now = *from_;
  const Process& me = now.process[p];
  if (me.alive == 0) return;
  if (me.role == 0) {
    if (me.open == 0 || (now.inherited & 2) != 0) return;
    if (now.process[1 - p].role != 0 && !has(Bug::two_shippers)) return;
    add("takes the shipping role", p, false, [&](State& s) {
      s.process[p].role = 1;
      s.process[p].end_generation = s.note;
      if (tail_of(s) != nullptr) locate(s, p);
    });
    return;
  }
  if (me.ship == Ship::putting) return store_steps_may_wait(now, limits_) ? void() : put_steps(p);
  if (me.ship != Ship::idle) return snapshot_steps(p);
  if (me.open == 0) {
    add("leaves the shipping role", p, false, [&](State& s) {
      forget_end(s.process[p]);
      s.process[p].role = 0;
    });
  }
  if (tail_of(now) == nullptr || store_steps_may_wait(now, limits_)) return;
  fold_steps(p);
  segment_steps(p);
}

// Of a full outbox two records become one, but for where the replica ends, or may.
void Model::fold_steps(int p) {
  const State& now = *from_;
  if (now.folds == limits_.folds || !alive(now)) return;
  for (std::size_t i = 0; i + 1 < now.records.size(); ++i) {
    const Record& one = now.records[i];
    const Record& two = now.records[i + 1];
    if (one.kind != Kind::batch || two.kind != Kind::batch || one.generation != two.generation) {
      continue;
    }
    // The first snapshot may still come from an earlier try: that costs a generation then.
    const bool tried = now.note_end == 0 && one.sequence != now.note_in_flight;
    const bool ends = one.sequence >= now.note_end &&
                      one.sequence <= std::max(now.note_end, now.note_in_flight) && !tried;
    if (ends && !has(Bug::folded_over_an_end)) continue;
    add("folds two records", p, true, [&](State& s) {
      ++s.folds;
      if (tried) s.excused = 1;
      Record& left = s.records[i];
      Record folded = s.records[i + 1];
      folded.image = left.image;
      apply(folded.image, s.records[i + 1].image);
      folded.folded = static_cast<Byte>(left.folded + 1 + folded.folded);
      left = folded;
      std::copy(s.records.begin() + static_cast<std::ptrdiff_t>(i) + 2, s.records.end(),
                s.records.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      s.records.back() = {};
    });
  }
}

void Model::segment_steps(int p) {
  const State& now = *from_;
  const Process& me = now.process[p];
  const Record& tail = *tail_of(now);
  if (me.located == 0) {
    add("asks the store where the replica ends", p, false, [&](State& s) { locate(s, p); });
    return;
  }
  if (is_damaged(now, me.end_generation, me.end_sequence + 1) && !has(Bug::damage_is_passed_over)) {
    add("gives up what it cannot read", p, false, [&](State& s) {
      if (me.end_generation == tail.generation) give_up(s, tail.generation);
      forget_end(s.process[p]);
    });
    return;
  }
  const Put put = next_segment(now, me);
  if (put.generation != 0) {
    add("sends a segment", p, false, [&](State& s) {
      s.note_in_flight = put.object.last;
      s.process[p].put = put;
      s.process[p].ship = Ship::putting;
    });
  } else if (me.end_generation != tail.generation) {
    add("turns to the next generation", p, false, [&](State& s) { forget_end(s.process[p]); });
  } else if (now.full != 0) {
    add("makes room in the outbox", p, false, [&](State& s) { make_room(s); });
  }
}

// Nothing is left in the outbox that could still be shipped.
void Model::make_room(State& s) const {
  if (s.full == 0 || has(Bug::full_for_ever)) return;
  s.full = 0;
  s.settled = tail_of(s)->sequence;
}

// What the replica has is the beginning of what the outbox has, and more of it may come.
bool Model::goes_on(const State& s, Byte generation) const {
  const Record& tail = *tail_of(s);
  const Object& end = last_object(s.stored[generation - 1]);
  if (end.last > tail.sequence) return has(Bug::longer_replica_is_trusted);
  const bool ended = generation != tail.generation;
  if (has(Bug::chain_not_compared) || (ended && has(Bug::ended_is_not_compared))) return true;
  if (is_damaged(s, generation, 0) && !has(Bug::damage_is_passed_over)) return false;
  const Record* here = batch_of(s, end.last);
  if (here == nullptr || here->generation != generation || here->chain != end.chain) return false;
  const Record* next = batch_behind(s, end.last);
  return next == nullptr ? !ended : next->generation == generation;
}

void Model::locate(State& s, int p) const {
  Process& me = s.process[p];
  const Byte current = tail_of(s)->generation;
  const auto begun = [&](Byte generation) { return s.stored[generation - 1].snapshot.last != 0; };
  if (me.end_generation != current &&
      (me.end_generation == 0 || !begun(me.end_generation) || !goes_on(s, me.end_generation))) {
    forget_end(me);
    if (begun(current)) me.end_generation = current;
  }
  if (me.end_generation == 0 || !begun(me.end_generation) || !goes_on(s, me.end_generation)) {
    if (me.end_generation == current) give_up(s, current);
    make_room(s);
    forget_end(me);
    me.ship = Ship::snapshot;
    return;
  }
  const Object& end = last_object(s.stored[me.end_generation - 1]);
  me.located = 1;
  me.end_sequence = end.last;
  me.end_offset = static_cast<Byte>(end.offset + end.length);
  s.note = me.end_generation;
  s.note_end = end.last;
  if (s.note_in_flight <= end.last || has(Bug::located_is_answered)) s.note_in_flight = 0;
  tell(s, me);
}

void Model::snapshot_steps(int p) {
  const Process& me = from_->process[p];
  const auto step = [&](const char* what, Ship next, auto&& change) {
    add(what, p, false, [&](State& s) {
      s.process[p].ship = next;
      change(s, s.process[p]);
    });
  };
  if (me.ship == Ship::snapshot && has(Bug::segment_before_snapshot) && alive(*from_)) {
    return step("begins without a snapshot", Ship::idle, [](State& s, Process& self) {
      self.located = 1;
      self.end_generation = tail_of(s)->generation;
      self.end_sequence = 0;
    });
  }
  if (me.open != 0 && !lock_is_free(*from_, p)) return;
  if (me.ship == Ship::snapshot) {
    return step("begins a snapshot and copies a page", Ship::idle, [&](State& s, Process& self) {
      if (!begin_copy(s, p)) return;
      self.copy[0] = s.file.image[0];
      self.ship = Ship::copying;
    });
  }
  step("copies the other pages, completes the snapshot and sends it", Ship::idle,
       [&](State& s, Process& self) {
         std::copy(s.file.image.begin() + 1, s.file.image.end(), self.copy.begin() + 1);
         end_copy(s, p);
       });
}

bool Model::begin_copy(State& s, int p) const {
  if (s.process[p].open != 0 && s.index.valid != 0 && !capture(s, p)) return false;
  if (tail_of(s) == nullptr || !alive(s) || !watched_or_closed(s, p)) return false;
  Process& me = s.process[p];
  me.copy_generation = tail_of(s)->generation;
  me.copy_from = has(Bug::snapshot_without_older) ? tail_of(s)->sequence + 1 : wal_first(s);
  return true;
}

// What was captured since the WAL in use began is applied: then the copy is the last batch's state.
void Model::end_copy(State& s, int p) const {
  Process& me = s.process[p];
  const bool seen = me.open == 0 || s.index.valid == 0 || capture(s, p);
  if (is_damaged(s, me.copy_generation, me.copy_from) && !has(Bug::damage_is_passed_over)) {
    give_up(s, me.copy_generation);
  }
  if (seen && alive(s) && tail_of(s)->generation == me.copy_generation && watched_or_closed(s, p)) {
    Put put;
    put.generation = me.copy_generation;
    put.snapshot = 1;
    put.object.image = me.copy;
    put.object.last = tail_of(s)->sequence;
    put.object.chain = last_batch(s).chain;
    put.object.page_size = s.file.page_size;
    for (const Record& record : s.records) {
      if (record.kind == Kind::batch && record.generation == me.copy_generation &&
          record.sequence >= me.copy_from && !has(Bug::snapshot_without_newer)) {
        apply(put.object.image, record.image);
      }
    }
    me.put = put;
    me.ship = Ship::putting;
    s.note_in_flight = put.object.last;
  }
  me.copy = {};
  me.copy_from = me.copy_generation = 0;
}

// The store's side of a PUT: false when the key is there.
bool Model::store(State& s, const Put& put) const {
  Stored& stored = s.stored[put.generation - 1];
  Object* place = &stored.snapshot;
  if (put.snapshot == 0) {
    place = std::find_if(stored.segments.begin(), stored.segments.end(), [&](const Object& o) {
      return o.last == 0 || o.offset == put.object.offset;
    });
    if (place == stored.segments.end()) return false;
  }
  if (place->last != 0 && !limits_.unconditional_store && !has(Bug::unconditional_put))
    return false;
  if (place->last != 0 && std::memcmp(place, &put.object, sizeof(Object)) != 0) s.rewritten = 1;
  *place = put.object;
  return true;
}

void Model::put_steps(int p) {
  if (limits_.silent_store) return;
  const Put put = from_->process[p].put;
  add("is told that the object is there", p, false, [&](State& s) {
    const bool success = store(s, put);
    answered(s, p, success || has(Bug::existing_key_is_ours));
  });
  if (from_->lost_answers == limits_.lost_answers) return;
  add("loses the answer of a PUT that succeeds", p, true, [&](State& s) {
    s.lost_answers = 1;
    store(s, put);
    answered(s, p, has(Bug::lost_answer_is_success));
  });
  add("loses the answer of a PUT on its way", p, true, [&](State& s) {
    s.lost_answers = 1;
    s.late[1] = put;
    answered(s, p, has(Bug::lost_answer_is_success));
  });
}

void Model::answered(State& s, int p, bool success) const {
  Process& me = s.process[p];
  const Put put = me.put;
  me.put = {};
  me.ship = Ship::idle;
  me.located = success ? 1 : 0;
  if (!success) return;
  me.end_generation = put.generation;
  me.end_sequence = put.object.last;
  me.end_offset = static_cast<Byte>(put.object.offset + put.object.length);
  s.note = put.generation;
  s.note_end = put.object.last;
  s.note_in_flight = 0;
  Byte& reported = s.stored[put.generation - 1].reported;
  reported = std::max(reported, put.object.last);
  tell(s, me);
}

// What nobody waits for any more arrives after all, or never.
void Model::late_puts() {
  if (store_steps_may_wait(*from_, limits_)) return;
  for (int i = 0; i < 2; ++i) {
    if (from_->late[i].generation == 0) continue;
    add("A late PUT arrives", 0, true, [&](State& s) {
      const Put put = std::exchange(s.late[i], {});
      store(s, put);
    });
  }
}

}  // namespace sqlstream::model
