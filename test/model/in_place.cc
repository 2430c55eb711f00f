#include "test/model/in_place.h"

#include <algorithm>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sqlstream::model::in_place {
namespace {

constexpr Byte kNotRead = 0xff;

Byte page_of(Byte commit) {
  return static_cast<Byte>((commit - 1) % kPages);
}

// The newest of the commits in (after, last] that wrote the page; 0: none did.
Byte newest(Byte after, Byte last, Byte page) {
  for (Byte commit = last; commit > after; --commit) {
    if (page_of(commit) == page) return commit;
  }
  return 0;
}

capture::Announcement product(const Announced& announced) {
  return {{announced.salt, 0}, announced.frame, announced.open != 0};
}

std::uint32_t reached(const Announced& announced, Byte salt) {
  return product(announced).reached({salt, 0});
}

bool covers(const Announced& announced, const Position& record) {
  capture::SourcePosition source;
  source.salt = {record.salt, 0};
  source.frame = record.frame;
  return product(announced).covers(source);
}

// The file is closed; where that is possible it was removed before.
void stop_saving(State& s, bool removed) {
  if (removed) s.old.linked = 0;
  s.old.locked = s.checkpoint.saves = 0;
}

}  // namespace

std::uint64_t Model::fingerprint(const State& state) {
  return XXH3_64bits(&state, sizeof state);
}

// Before the first record of another WAL: all of the one before is in the file.
void Model::append(State& s, const Position& record) const {
  const bool other = record.salt != s.record.salt;
  if (other && s.named != 0 && s.old.linked != 0 && !covers(s.old.announced, s.record) &&
      !has(Bug::other_wal_ignored)) {
    s.old.linked = s.named = 0;
  }
  s.record = record;
}

void Model::capture(State& s) const {
  if (s.alive == 0) return;
  const bool same = s.wal.salt == s.record.salt;
  if (!same && s.record.commit() != s.wal.base) {
    s.alive = 0;  // somebody reset a WAL that had more
  } else if (s.wal.frames > (same ? s.record.frame : 0)) {
    append(s, {s.wal.salt, s.wal.base, s.wal.frames});
  }
}

const std::vector<Successor>& Model::successors(const State& state) {
  successors_.clear();
  from_ = &state;
  const Copy step = state.copier.step;
  if (step == Copy::over || step == Copy::given_up) return successors_;
  copier();
  // Void for good, whatever the others do: the copier comes to find it.
  if (step > Copy::announce && state.old.linked == 0) return successors_;
  add("captures in the background", kShim, true, [&](State& s) { capture(s); });
  for (const Byte who : {kShim, kStranger}) {
    commits(who);
    begin_checkpoint(who);
  }
  checkpoint();
  accidents();
  return successors_;
}

const char* Model::violation(const State& s, bool quiet) const {
  const Copier& copier = s.copier;
  if (copier.step == Copy::over) {
    for (Byte page = 0; page < kPages; ++page) {
      if (copier.image[page] != newest(0, copier.at.commit(), page)) {
        return "the image is not the state at its position";
      }
    }
  } else if (copier.step == Copy::given_up) {
    return s.excused == 0 ? "a snapshot was given up without need" : nullptr;
  } else if (quiet) {
    return "all is quiet, and the snapshot is not there";
  }
  return nullptr;
}

// A reset is apart from the commit that it comes before: its process may die, or wait, between.
void Model::commits(Byte who) {
  const State& now = *from_;
  const bool stranger = who == kStranger;
  if (now.commits == limits_.commits) return;
  if (stranger && now.strangers == limits_.strangers) return;
  const auto step = [&](const char* what, auto&& change) {
    add(what, who, true, [&](State& s) {
      if (stranger) ++s.strangers;
      s.excused |= stranger ? 1 : 0;
      change(s);
    });
  };
  if (now.wal.frames > 0 && now.wal.done == now.wal.frames) {
    step("resets the WAL", [&](State& s) {
      if (!stranger) capture(s);
      s.wal = {static_cast<Byte>(s.wal.salt + 1), s.commits, 0, 0, 0};
    });
  }
  step("commits", [&](State& s) {
    const bool known = s.alive != 0 && s.record.commit() == s.wal.base;
    if (!stranger && s.wal.frames == 0 && s.record.salt != s.wal.salt && known) {
      append(s, {s.wal.salt, s.wal.base, 0});  // the mark
    }
    ++s.commits;
    ++s.wal.frames;
  });
}

void Model::begin_checkpoint(Byte who) {
  const State& now = *from_;
  const bool stranger = who == kStranger;
  if (now.locked_by != kNobody || now.wal.frames == now.wal.done) return;
  if (stranger ? now.strangers == limits_.strangers : now.checkpoints == limits_.checkpoints) {
    return;
  }
  add("takes the checkpoint lock", who, true, [&](State& s) {
    s.locked_by = who;
    ++(stranger ? s.strangers : s.checkpoints);
    s.excused |= stranger ? 1 : 0;
    s.checkpoint.step = Step::locked;
    s.checkpoint.tried = {s.wal.salt, s.wal.attempted, 0};
  });
}

void Model::checkpoint() {
  const State& now = *from_;
  const auto step = [&](const char* what, Step next, auto&& change) {
    add(what, now.locked_by, false, [&](State& s) {
      s.checkpoint.step = next;
      change(s, s.checkpoint);
    });
  };
  switch (now.checkpoint.step) {
    case Step::idle:
      return;
    case Step::locked:
      return step("notes how far it is going to come",
                  now.locked_by == kStranger ? Step::writing : Step::attempted,
                  [](State& s, Checkpoint& me) { s.wal.attempted = me.to = s.wal.frames; });
    case Step::attempted:
      return step("captures, and looks for a snapshot", Step::captured,
                  [&](State& s, Checkpoint& me) {
                    if (!has(Bug::no_capture_before_checkpoint)) capture(s);
                    me.sees = s.named;
                  });
    case Step::captured:
      return step("announces its checkpoint", Step::writing,
                  [&](State& s, Checkpoint&) { begin_saving(s); });
    case Step::writing:
      return page_steps();
    case Step::written:
      return step("comes to the end of its checkpoint", Step::idle,
                  [&](State& s, Checkpoint&) { end_checkpoint(s); });
  }
}

void Model::begin_saving(State& s) const {
  Checkpoint& me = s.checkpoint;
  if (std::exchange(me.sees, Byte{0}) == 0 || s.old.linked == 0) return;
  const Announced known = s.old.announced;
  const std::uint32_t announced = reached(known, s.wal.salt);
  const std::uint32_t tried = std::max<std::uint32_t>(
      s.wal.done, reached(std::exchange(me.tried, Announced{}), s.wal.salt));
  if ((known.open != 0 && !has(Bug::dead_checkpointer_ignored)) ||
      (tried > announced && !has(Bug::earlier_attempts_ignored))) {
    return stop_saving(s, true);
  }
  me.saves = s.old.locked = 1;
  me.mine = {s.wal.salt, std::max(static_cast<Byte>(announced), me.to), 1};
  s.old.announced = me.mine;
}

void Model::page_steps() {
  const State& now = *from_;
  const Checkpoint& me = now.checkpoint;
  const auto page = me.page;
  const auto step = [&](const char* what, auto&& change) {
    add(what, now.locked_by, false, [&](State& s) { change(s, s.checkpoint); });
  };
  if (page == kPages) {
    return step("notes how far it came", [](State& s, Checkpoint& self) {
      s.wal.done = self.to;
      self.step = Step::written;
    });
  }
  const Byte image = newest(now.wal.base, static_cast<Byte>(now.wal.base + me.to), page);
  if (image == 0)
    return step("has no image of a page", [](State&, Checkpoint& self) { ++self.page; });
  const auto write = [page, image](State& s, Checkpoint& self) {
    s.file[page] = image;
    ++self.page;
    self.saved = 0;
  };
  const bool wanted = me.saves != 0 && !has(Bug::page_not_saved) &&
                      (me.saved != 0 || (page >= now.old.copied && now.old.saved[page] == 0));
  if (!wanted || me.saved == 2) return step("writes a page", write);
  if (me.saved == 0 && now.failures < limits_.failures) {
    for (const bool removed : {true, false}) {
      add(removed ? "cannot save a page" : "can neither save a page nor remove the file", kShim,
          true, [&](State& s) {
            s.failures = s.excused = 1;
            if (!has(Bug::failed_save_ignored)) return stop_saving(s, removed);
            s.checkpoint.saved = 2;
          });
    }
  }
  if (has(Bug::saved_behind_the_write)) {
    return step("writes a page, or saves it", [&](State& s, Checkpoint& self) {
      if (self.saved++ == 0) {
        s.file[page] = image;
      } else {
        s.old.image[page] = s.file[page];
        s.old.saved[page] = 1;
      }
    });
  }
  const bool image_now = (me.saved == 0) != has(Bug::byte_before_image);
  step(image_now ? "saves a page" : "says that it is saved", [&](State& s, Checkpoint& self) {
    ++self.saved;
    (image_now ? s.old.image : s.old.saved)[page] = image_now ? s.file[page] : 1;
  });
}

// Others may checkpoint from then on.
void Model::end_checkpoint(State& s) const {
  Checkpoint& me = s.checkpoint;
  const bool ended = s.wal.salt != me.mine.salt || s.wal.done >= me.to;
  if (me.saves != 0 && (ended || has(Bug::broken_off_is_ended))) {
    s.old.announced = {me.mine.salt, me.mine.frame, 0};
  } else if (me.saves != 0) {
    stop_saving(s, true);
  }
  s.old.locked = 0;
  s.locked_by = kNobody;
  me = {};
}

// The process that copies does not die: there would be no snapshot to look at.
void Model::accidents() {
  const State& now = *from_;
  if (now.locked_by == kNobody) return;
  if (now.kills < limits_.kills) {
    add("is killed", now.locked_by, true, [&](State& s) {
      ++s.kills;
      s.excused = 1;
      s.old.locked = 0;
      s.locked_by = kNobody;
      s.checkpoint = {};
    });
  }
  if (now.locked_by == kShim && now.checkpoint.step == Step::writing &&
      now.failures < limits_.failures) {
    add("cannot write a page", kShim, true, [&](State& s) {
      s.failures = s.excused = 1;
      end_checkpoint(s);
    });
  }
}

void Model::copier() {
  const auto step = [&](const char* what, Copy next, auto&& change) {
    add(what, kCopier, false, [&](State& s) {
      s.copier.step = next;
      change(s, s.copier);
    });
  };
  switch (from_->copier.step) {
    case Copy::begin:
      return step("captures for a snapshot", Copy::announce,
                  [&](State& s, Copier&) { capture(s); });
    case Copy::announce:
      return step("announces a snapshot", Copy::capture, [](State& s, Copier& me) {
        me.at = s.record;
        s.old.linked = s.named = 1;
        s.old.announced = {me.at.salt, me.at.frame, 0};
      });
    case Copy::capture:
      return step("captures to prove", Copy::look, [&](State& s, Copier& me) {
        capture(s);
        me.known = s.record;
        me.named = s.named;
      });
    case Copy::look:
      return step("looks at the wal-index", Copy::decide,
                  [](State& s, Copier& me) { me.seen = s.wal; });
    case Copy::decide:
      return step("looks at the announcement", Copy::capture,
                  [&](State& s, Copier&) { decide(s); });
    case Copy::read:
      if (has(Bug::cursor_before_read) && from_->old.copied == from_->copier.page) {
        return step("says too early that a page is copied", Copy::read,
                    [](State& s, Copier&) { ++s.old.copied; });
      }
      return step("reads a page", Copy::find, [&](State& s, Copier& me) {
        me.read = s.file[me.page];
        if (has(Bug::looked_before_read)) {
          me.read = s.old.saved[me.page] != 0 ? s.old.image[me.page] : kNotRead;
        }
      });
    case Copy::find:
      return step("looks whether it was saved", Copy::advance, [&](State& s, Copier& me) {
        if (me.read == kNotRead) me.read = s.file[me.page];
        find(s);
      });
    case Copy::advance:
      return step("says that it is copied", Copy::read, [](State& s, Copier& me) {
        s.old.saved[me.page] = s.old.image[me.page] = me.read = 0;  // nobody looks again
        s.old.copied = ++me.page;
        if (me.page == kPages) me.step = Copy::capture;
      });
    case Copy::over:
    case Copy::given_up:
      return;
  }
}

void Model::find(State& s) const {
  Copier& me = s.copier;
  const Byte page = me.page;
  const Byte captured = newest(me.at.base, me.at.commit(), page);
  me.image[page] = me.read;
  if (s.old.saved[page] != 0 && !has(Bug::looked_before_read)) me.image[page] = s.old.image[page];
  if (captured != 0 && !has(Bug::wal_not_overlaid)) me.image[page] = captured;
}

void Model::decide(State& s) const {
  Copier& me = s.copier;
  const Wal seen = std::exchange(me.seen, Wal{});
  const Position known = std::exchange(me.known, Position{});
  const bool named = std::exchange(me.named, Byte{0}) != 0;
  const Announced& announced = s.old.announced;
  const bool died = announced.open != 0 && s.old.locked == 0;
  const bool open_counts = !has(Bug::open_at_the_end_ignored);
  if (s.alive == 0 || !named || s.old.linked == 0 || (died && open_counts)) {
    me.step = Copy::given_up;
    return;
  }
  if (announced.open != 0 && open_counts) return;
  const bool same = seen.salt == known.salt;
  if (!same && seen.frames != 0) return;
  if (!has(Bug::last_attempt_ignored)) {
    if (!same && !covers(announced, known)) return;
    if (std::max(seen.done, seen.attempted) > reached(announced, seen.salt)) return;
  }
  me.step = me.page == kPages ? Copy::over : Copy::read;
}

}  // namespace sqlstream::model::in_place
