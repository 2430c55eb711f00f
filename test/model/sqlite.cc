// SQLite as the protocol sees it, and what befalls it: crashes, a power failure, other programs.

#include <algorithm>

#include "test/model/model.h"

namespace sqlstream::model {
namespace {

bool writes(const Process& process) {
  return process.step >= Step::note_wal && process.step <= Step::publish;
}

// It has EXCLUSIVE on the database file.
bool has_exclusive(const Process& process) {
  return process.step >= Step::last_unmap;
}

template <class Test>
bool any(const State& s, Test test) {
  return std::any_of(s.process.begin(), s.process.end(), test);
}

bool is_open(const State& s) {
  return any(s, [](const Process& process) { return process.open != 0; });
}

// The state that readers see now was committed.
void note_real(State& s) {
  const Image image = source_image(s);
  const auto code = static_cast<Byte>(image[0] | image[1] << 2 | image[2] << 4);
  const auto end = s.real.begin() + s.reals;
  if (std::find(s.real.begin(), end, code) == end) s.real[s.reals++] = code;
}

// What the first connection does: the wal-index is built anew from the WAL, iChange from 0.
void recover(State& s) {
  s.index = {};
  s.index.valid = 1;
  if (s.wal.exists == 0 || s.wal.salt == 0) return;
  Position& header = s.index.header;
  header.salt = s.wal.salt;
  for (Byte i = 0; i < s.wal.frames && s.wal.frame[i].salt == s.wal.salt; ++i) {
    if (s.wal.frame[i].ends == 0) continue;
    header.frame = i + 1;
    header.sum = frame_sum(s.wal.salt, i + 1, s.wal.frame[i].commit);
  }
  note_real(s);
}

void write_into_file(State& s, Byte commit, int part) {
  s.file.image[(commit - 1 + part) % kPages] = commit;
  s.file.version = ++s.versions;
}

void copy_into_file(State& s, Byte frames) {
  if (frames <= s.index.backfill) return;
  for (Byte i = 0; i < frames; ++i) s.file.image[s.wal.frame[i].page] = s.wal.frame[i].commit;
  s.index.backfill = frames;
  s.wal.synced = std::max(s.wal.synced, frames);
  s.file.version = ++s.versions;
}

void reset_index(State& s) {
  s.index.header.salt = ++s.salts;
  s.index.header.frame = 0;
  s.index.backfill = 0;
}

void write_wal_header(State& s, Byte salt) {
  s.wal.exists = 1;
  s.wal.salt = salt;
  s.wal.synced = 0;
}

// `padded`: the last frame once more.
void write_frames(State& s, Byte commit, bool padded) {
  Byte at = s.index.header.frame;
  for (int i = 0; i < 2; ++i) {
    const auto page = static_cast<Byte>((commit - 1 + i) % kPages);
    s.wal.frame[at++] = {s.wal.salt, page, commit, static_cast<Byte>(i)};
  }
  if (padded) {
    s.wal.frame[at] = s.wal.frame[at - 1];
    ++at;
  }
  s.wal.frames = std::max(s.wal.frames, at);
}

void publish(State& s, Byte commit, bool padded) {
  Position& header = s.index.header;
  header.salt = s.wal.salt;
  header.frame += padded ? 3 : 2;
  ++header.change;
  header.sum = frame_sum(header.salt, header.frame, commit);
  note_real(s);
}

}  // namespace

// A wait is over once in a generation; who finds it given up does not wait.
bool Model::may_expire() const {
  return from_->expired_waits < limits_.expired_waits ||
         (from_->expired_waits > 0 && (!alive(*from_) || has(Bug::expired_wait_is_forgotten)));
}

// Where that was found, it took no time.
void Model::note_expired(State& s) const {
  const bool given_up = tail_of(s) != nullptr && !alive(s);
  s.expired_waits = has(Bug::end_mark_ignored) && given_up ? 2 : 1;
  s.excused = 1;
}

// A point where SQLite waits for a capture before it goes on with `change`.
template <class Change>
void Model::hook(const char* what, int p, bool skipped, Change&& change) {
  if (skipped || lock_is_free(*from_, p)) {
    add(what, p, from_->process[p].step == Step::idle, [&](State& s) {
      s.process[p].whole = skipped || capture(s, p);
      change(s, s.process[p]);
    });
  } else if (may_expire()) {
    add("does not wait any longer for a capture", p, true, [&](State& s) {
      note_expired(s);
      s.process[p].whole = has(Bug::expired_wait_is_forgotten);
      if (!has(Bug::expired_wait_is_forgotten) && tail_of(s) != nullptr) {
        give_up(s, tail_of(s)->generation);
      }
      change(s, s.process[p]);
    });
  }
}

void Model::application(int p) {
  const State& now = *from_;
  const Process& me = now.process[p];
  const Process& other = now.process[1 - p];
  if (me.open != 0) {
    if (me.step == Step::idle) return begin_steps(p);
    commit_steps(p);
    close_steps(p);
  } else if (me.step != Step::idle) {
    unseen_steps(p);
  } else if (me.capturing == 0 && !has_exclusive(other) &&
             (!limits_.exclusive || other.open == 0)) {
    add("opens the database", p, true, [&](State& s) {
      Process& self = s.process[p];
      if (!is_open(s)) {
        recover(s);
        self.resets = s.wal.salt != 0 ? 1 : 0;
      }
      self.alive = self.open = 1;
      self.anchored = 0;
      self.anchor_chain = 0;
      self.anchor = {};
    });
  }
  if (me.open == 0 && me.step == Step::idle && me.capturing == 0 && !is_open(now) &&
      !has_exclusive(other) && now.unseen < limits_.unseen && now.commits < limits_.commits) {
    add("begins a commit without a wal-index", p, true, [&](State& s) {
      ++s.unseen;
      s.process[p].alive = 1;
      s.process[p].commit = ++s.commits;
      s.process[p].step = Step::unseen_page;
    });
  }
  if (has(Bug::clean_mark_unlocked) && me.open == 0 && me.whole != 0 && lock_is_free(now, p)) {
    add("notes the clean close, when it is over", p, false, [&](State& s) {
      s.process[p].whole = 0;
      note_clean_close(s);
    });
  }
  if (me.alive != 0 && me.open == 0 && lock_is_free(now, p) &&
      now.expired_waits < limits_.expired_waits) {
    add("looks at the outbox, locked", p, true, [&](State& s) { s.process[p].capturing = 1; });
  }
}

// What an application may do next.
void Model::begin_steps(int p) {
  const State& now = *from_;
  const Process& other = now.process[1 - p];
  const Byte frames = now.index.header.frame;
  if (now.commits < limits_.commits && !writes(other) && !has_exclusive(other)) {
    if (frames == 0) {
      add("begins a commit", p, true, [&](State& s) {
        s.process[p].commit = ++s.commits;
        s.process[p].step = Step::note_wal;
      });
    } else {
      add("writes the frames of a commit", p, true, [&](State& s) {
        s.process[p].commit = ++s.commits;
        write_frames(s, s.process[p].commit, limits_.padded);
        s.process[p].step = Step::publish;
      });
    }
    if (frames > 0 && now.index.backfill == frames && now.resets == 0) {
      hook("captures, and resets the wal-index for a commit", p,
           has(Bug::no_capture_at_reset) || limits_.exclusive, [](State& s, Process& me) {
             ++s.resets;
             reset_index(s);
             me.resets = 1;
             me.commit = ++s.commits;
             me.whole = 0;
             me.step = Step::note_wal;
           });
    }
  }
  if (frames > now.index.backfill && now.checkpoints == 0) {
    hook("captures and checkpoints", p, has(Bug::no_capture_at_checkpoint),
         [&](State& s, Process& me) {
           ++s.checkpoints;
           copy_into_file(s, frames);
           me.whole = 0;
         });
  }
  if (now.closes == limits_.closes) return;
  const bool unseen = has(Bug::no_capture_at_close);
  if (other.open != 0) {
    hook("captures and unmaps", p, unseen, [](State& s, Process& me) {
      ++s.closes;
      me.whole = 0;
      me.step = Step::closed;
    });
  } else {
    hook("is the last: captures and checkpoints", p, unseen, [&](State& s, Process& me) {
      ++s.closes;
      copy_into_file(s, frames);
      me.step = Step::last_unmap;
    });
  }
}

// SQLite's count of resets is 0 in a process that neither made one nor recovered a WAL: then it
// takes random salts for a new WAL, whatever the wal-index has.
void Model::choose_salt(State& s, Process& me) {
  const bool kept = me.resets != 0 && s.index.header.salt != 0;
  me.new_salt = kept ? s.index.header.salt : ++s.salts;
}

void Model::commit_steps(int p) {
  const auto step = [&](const char* what, Step next, auto&& change) {
    add(what, p, false, [&](State& s) {
      s.process[p].step = next;
      change(s, s.process[p]);
    });
  };
  switch (from_->process[p].step) {
    case Step::note_wal:
      if (has(Bug::reset_waits_for_the_store) && unshipped(*from_) != 0) return;
      if (lock_is_free(*from_, p)) {
        step("notes the new WAL", Step::wal_header, [&](State& s, Process& me) {
          choose_salt(s, me);
          if (!has(Bug::no_reset_mark)) note_new_wal(s, p);
        });
      } else if (may_expire()) {
        step("begins a WAL without a note", Step::wal_header, [&](State& s, Process& me) {
          note_expired(s);
          choose_salt(s, me);
        });
      }
      return;
    case Step::wal_header:
      return step("writes the WAL's header", Step::frames,
                  [](State& s, Process& me) { write_wal_header(s, me.new_salt); });
    case Step::frames:
      return step("writes frames", Step::publish,
                  [&](State& s, Process& me) { write_frames(s, me.commit, limits_.padded); });
    case Step::publish:
      return step("commits", Step::idle, [&](State& s, Process& me) {
        publish(s, me.commit, limits_.padded);
        me.commit = me.new_salt = 0;
      });
    default:
      return;
  }
}

void Model::close_steps(int p) {
  const auto step = [&](const char* what, Step next, auto&& change) {
    add(what, p, false, [&](State& s) {
      s.process[p].step = next;
      change(s, s.process[p]);
    });
  };
  // Its background borrows it.
  const bool mapping_in_use =
      from_->process[p].capturing != 0 && !has(Bug::unmapped_under_a_capture);
  const auto closed = [&](State&, Process& me) {
    me.open = me.resets = 0;
    if (!has(Bug::clean_mark_unlocked)) me.whole = 0;
  };
  switch (from_->process[p].step) {
    case Step::closed:
      if (mapping_in_use) return;
      return step("closes", Step::idle, closed);
    case Step::last_unmap:
      return hook("captures and unmaps, the last one", p, has(Bug::no_capture_at_close),
                  [](State&, Process& me) { me.step = Step::last_note; });
    case Step::last_note:
      if (mapping_in_use || !lock_is_free(*from_, p)) return;
      return step("notes the clean close", Step::last_delete, [&](State& s, Process& me) {
        s.index = {};
        const bool skipped = has(Bug::no_clean_mark) || has(Bug::clean_mark_unlocked);
        if (me.whole != 0 && !skipped) note_clean_close(s);
      });
    case Step::last_delete:
      return step("deletes the WAL", Step::idle, [&](State& s, Process& me) {
        s.wal = {};
        closed(s, me);
      });
    default:
      return;
  }
}

// A write outside WAL mode, or in a WAL whose index is in the process's own memory and that is gone
// when it closes: no capture sees it, and it is alone.
void Model::unseen_steps(int p) {
  const Byte commit = from_->process[p].commit;
  const auto step = [&](const char* what, Step next, auto&& change) {
    add(what, p, false, [&](State& s) {
      s.process[p].step = next;
      change(s);
    });
  };
  switch (from_->process[p].step) {
    case Step::unseen_page:
      return step("gives up, and writes a page unseen", Step::unseen_commit, [&](State& s) {
        const Record* tail = tail_of(s);
        s.excused = 1;
        if (tail != nullptr && !has(Bug::unseen_write_is_stamped)) give_up(s, tail->generation);
        write_into_file(s, commit, 0);
      });
    case Step::unseen_commit:
      return step("writes the other page, and commits unseen", Step::unseen_unlock, [&](State& s) {
        write_into_file(s, commit, 1);
        note_real(s);
      });
    case Step::unseen_unlock:
      if (!lock_is_free(*from_, p)) return;
      return step("unlocks", Step::idle, [&](State& s) {
        if (has(Bug::unseen_write_is_stamped)) note_clean_close(s);
        s.process[p].commit = 0;
      });
    default:
      return;
  }
}

void Model::accidents(int p) {
  const Process& me = from_->process[p];
  if (from_->kills == limits_.kills || me.alive == 0) return;
  const auto die = [p](State& s) {
    ++s.kills;
    Process& dying = s.process[p];
    if (dying.put.generation != 0) s.late[0] = dying.put;
    dying = {};
  };
  add("is killed", p, true, die);
  if (has(Bug::forked_child_keeps_locks)) {
    add("is killed, and its child lives on", p, true, [&](State& s) {
      s.inherited = static_cast<Byte>(me.capturing | me.role << 1);
      die(s);
    });
  }
  if (me.capturing == 0 || me.begins != 0 || tail_of(*from_) == nullptr) return;
  add("is killed while it appends", p, true, [&](State& s) {
    Record record = *tail_of(s);
    record.kind = Kind::torn;
    record.source = me.seen;
    ++record.sequence;
    record.image.fill(kNoImage);
    append(s, record);
    die(s);
  });
}

// What was not synced is gone: frames behind the last checkpoint, times of the file, and the newest
// records and marks of the outbox, which never syncs.
void Model::power_failure() {
  if (from_->power_failures == limits_.power_failures) return;
  const auto records = std::count_if(from_->records.begin(), from_->records.end(),
                                     [](const Record& r) { return r.kind != Kind::none; });
  for (int lost_frames = 0; lost_frames < 2; ++lost_frames) {
    for (int kept = std::max(0, static_cast<int>(records) - 2); kept <= records; ++kept) {
      add("The machine loses power", 0, true, [&](State& s) {
        ++s.power_failures;
        s.excused = 1;
        s.booted = s.ended = 0;
        if (s.process[0].put.generation != 0) s.late[0] = s.process[0].put;
        if (s.process[1].put.generation != 0) s.late[1] = s.process[1].put;
        s.process = {};
        s.index = {};
        if (lost_frames != 0) s.wal.frames = std::min(s.wal.frames, s.wal.synced);
        std::fill(s.wal.frame.begin() + s.wal.frames, s.wal.frame.end(), Frame{});
        std::fill(s.records.begin() + kept, s.records.end(), Record{});
        const Record* tail = tail_of(s);
        if (tail != nullptr && tail->identity != 0) s.file.version = tail->identity;
      });
    }
  }
}

// Somebody who copies files, and a disk that does not keep what it was given.
void Model::outside() {
  const State& now = *from_;
  if (now.replaced < limits_.replaced && !is_open(now)) {
    add("An old copy is put in the file's place", 0, true, [](State& s) {
      s.replaced = s.excused = 1;
      s.file.image = {};
      s.file.version = ++s.versions;
      ++s.file.inode;
      s.file.page_size = 1;
    });
  }
  if (now.doubts < limits_.doubts && alive(now)) {
    add("Something ends the generation", 0, true, [](State& s) {
      ++s.doubts;
      s.excused = 1;
      give_up(s, tail_of(s)->generation);
    });
  }
  const Record* tail = tail_of(now);
  if (now.damages == limits_.damages || tail == nullptr) return;
  for (std::size_t i = 0; &now.records[i] != tail; ++i) {
    if (now.records[i].kind != Kind::batch) continue;
    add("A record is damaged", 0, true, [i](State& s) {
      s.damages = s.excused = 1;
      s.records[i].kind = Kind::damaged;
    });
  }
}

// A program without the shim: it checkpoints, resets and commits without any hook.
void Model::strangers() {
  const State& now = *from_;
  if (now.strangers == limits_.strangers ||
      any(now, [](const Process& process) { return writes(process) || has_exclusive(process); })) {
    return;
  }
  const bool may_commit = now.commits < limits_.commits;
  const auto commit = [&](State& s) {
    const Byte id = ++s.commits;
    if (s.index.header.frame == 0) {
      write_wal_header(s, s.index.header.salt != 0 ? s.index.header.salt : ++s.salts);
    }
    write_frames(s, id, limits_.padded);
    publish(s, id, limits_.padded);
  };
  const auto stranger = [&](const char* what, Byte excuse, auto&& change) {
    add(what, 0, true, [&](State& s) {
      s.strangers = 1;
      s.excused |= excuse;
      change(s);
    });
  };
  const auto all = [](State& s) { copy_into_file(s, s.index.header.frame); };
  if (!is_open(now)) {
    if (limits_.page_sizes != 0) {
      stranger("A stranger changes the page size", 1, [](State& s) {
        ++s.file.page_size;
        s.file.version = ++s.versions;
      });
      return;
    }
    if (!may_commit) return;
    stranger("A stranger opens, commits and closes", 1, [&](State& s) {
      const Byte version = s.file.version;
      recover(s);
      commit(s);
      all(s);
      s.wal = {};
      s.index = {};
      if (has(Bug::identity_is_racy)) s.file.version = version;
    });
    return;
  }
  if (limits_.exclusive || now.index.header.frame == 0) return;
  // Of a WAL that nothing was captured from, who joins knows by the identity of the file alone.
  const Record* tail = tail_of(now);
  // Nor are commits counted where padding may be among them.
  const bool known =
      tail != nullptr && tail->source.salt == now.index.header.salt && !limits_.padded;
  stranger("A stranger checkpoints", known ? 0 : 1, all);
  stranger("A stranger checkpoints and resets the WAL", 1, [&](State& s) {
    all(s);
    reset_index(s);
  });
  if (!may_commit) return;
  stranger("A stranger checkpoints, resets the WAL and commits", 1, [&](State& s) {
    all(s);
    reset_index(s);
    commit(s);
  });
}

}  // namespace sqlstream::model
