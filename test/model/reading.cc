#include "test/model/reading.h"

#include <algorithm>
#include <bit>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "capture/wal_index.h"

namespace sqlstream::model::reading {
namespace {

constexpr Byte kWriter = 0;
constexpr Byte kReader = 1;
constexpr std::uint32_t kVersion = 3007000;

// What is written, and read, at once: the words from one of these to the next.
constexpr std::array<std::size_t, 6> kPieces = {0, 4, 6, 8, 10, 12};
constexpr Byte kPiecesOfCopy = kPieces.size() - 1;

// Steps of a commit before it comes to the header.
constexpr Byte kFrameSteps = 2 * kPages;
constexpr Byte kCommitSteps = kFrameSteps + kPages;

Words with_checksum(Words words) {
  const auto sum = wal::checksum({}, {reinterpret_cast<const std::uint8_t*>(words.data()), 40},
                                 std::endian::native == std::endian::big);
  words[10] = sum[0];
  words[11] = sum[1];
  return words;
}

Words words_of(const Header& header) {
  constexpr std::uint16_t kPageSize = 512;
  std::array<Byte, 4> flags{1};
  std::memcpy(flags.data() + 2, &kPageSize, 2);
  const std::array<Byte, 4> salt{0, 0, 0, header.salt};
  Words words{kVersion};
  words[2] = header.change;
  std::memcpy(&words[3], flags.data(), 4);
  words[4] = header.frame;
  words[5] = kPages;
  words[6] = header.sum;
  std::memcpy(&words[8], salt.data(), 4);
  return with_checksum(words);
}

Header header_of(const Words& words) {
  std::array<Byte, 4> salt{};
  std::memcpy(salt.data(), &words[8], 4);
  return {static_cast<Byte>(words[2]), static_cast<Byte>(words[4]), salt[3],
          static_cast<Byte>(words[6])};
}

void copy_piece(Words& to, const Words& from, Byte piece) {
  std::copy(from.begin() + kPieces[piece], from.begin() + kPieces[piece + 1],
            to.begin() + kPieces[piece]);
}

// In each WAL in another order.
Byte page_of(Byte frame, Byte salt) {
  return static_cast<Byte>((frame + salt) % kPages);
}

void forget(State& s) {
  s.look = Look::header;
  s.read = s.since = 0;
  s.seen = {};
  s.seen_pages = {};
  s.image = {};
  s.seen_copies = {};
}

}  // namespace

State Model::first() {
  State s;
  s.commits = s.visible = 1;
  for (Byte i = 0; i < kPages; ++i) s.wal[i] = {s.wal_salt, page_of(i, s.wal_salt), 1};
  return s;
}

std::uint64_t Model::fingerprint(const State& state) {
  return XXH3_64bits(&state, sizeof state);
}

const std::vector<Successor>& Model::successors(const State& state) {
  successors_.clear();
  from_ = &state;
  if (state.look == Look::over) return successors_;
  if (state.op == Op::none) {
    begin_writing();
  } else {
    write_steps();
  }
  read_steps();
  return successors_;
}

const char* Model::violation(const State& s, bool quiet) const {
  if (s.look != Look::over) return quiet ? "all is quiet, and nothing was captured" : nullptr;
  const auto end = s.headers.begin() + s.written;
  if (std::find(s.headers.begin(), end, s.seen) == end) return "a header that nobody wrote";
  if (s.image[0] != s.image[1]) return "what was captured is no state that was committed";
  return s.image[0] < s.since ? "what was captured is older than what was there" : nullptr;
}

void Model::begin_writing() {
  const State& now = *from_;
  if (now.commits < limits_.commits) {
    add("begins a commit", kWriter, true, [](State& s) {
      s.op = Op::commit;
      ++s.commits;
      s.next = s.now;
      ++s.next.change;
      s.next.frame += kPages;
      s.next.sum = s.commits;
      s.wal_salt = s.now.salt;
    });
  }
  if (now.now.frame != 0 && now.resets < limits_.resets) {
    add("checkpoints, and begins a reset", kWriter, true, [](State& s) {
      s.op = Op::reset;
      ++s.resets;
      s.file = s.visible;
      s.next = s.now;
      s.next.frame = 0;
      ++s.next.salt;
    });
  }
}

void Model::write_steps() {
  const State& now = *from_;
  const auto step = [&](const char* what, auto&& change) {
    add(what, kWriter, false, [&](State& s) {
      ++s.at;
      change(s);
    });
  };
  // Copies that differ are mended by whoever comes next; else he goes on where they are.
  if (now.kills < limits_.kills && now.op != Op::recovery) {
    add("is killed", kWriter, true, [](State& s) {
      ++s.kills;
      s.op = s.copies[0] != s.copies[1] ? Op::recovery : Op::none;
      s.at = 0;
      s.next = {};
    });
  }
  const Byte before = now.op == Op::commit ? kCommitSteps : now.op == Op::recovery ? 1 : 0;
  if (now.at >= before) {
    const auto piece = static_cast<Byte>(now.at - before);
    return step("writes a piece of the header", [&](State& s) {
      const bool second = piece < kPiecesOfCopy;
      copy_piece(s.copies[second ? 1 : 0], words_of(s.next), piece % kPiecesOfCopy);
      if (piece + 1 < 2 * kPiecesOfCopy) return;
      s.headers.at(s.written++) = s.next;
      s.now = std::exchange(s.next, Header{});
      s.visible = s.now.frame != 0 ? s.wal[s.now.frame - 1].image : s.file;
      s.op = Op::none;
      s.at = 0;
    });
  }
  if (now.op == Op::recovery) {
    return step("finds the frames again", [](State& s) {
      s.next = {};
      s.next.salt = s.wal_salt;
      while (s.next.frame < kFrames && s.wal[s.next.frame].salt == s.wal_salt) {
        s.pages[s.next.frame] = s.wal[s.next.frame].page;
        ++s.next.frame;
      }
      s.next.frame -= s.next.frame % kPages;
      if (s.next.frame != 0) s.next.sum = s.wal[s.next.frame - 1].image;
    });
  }
  const bool frames = now.at < kFrameSteps;
  const auto i = static_cast<Byte>(now.now.frame + (frames ? now.at / 2 : now.at - kFrameSteps));
  if (!frames) {
    step("notes a frame's page", [&](State& s) { s.pages[i] = s.wal[i].page; });
  } else if (now.at % 2 == 0) {
    step("writes a frame's header", [&](State& s) {
      s.wal[i].salt = s.now.salt;
      s.wal[i].page = page_of(i, s.now.salt);
    });
  } else {
    step("writes a frame's page", [&](State& s) { s.wal[i].image = s.commits; });
  }
}

// Both copies are a header, and the same.
bool Model::accepts(Copies copies) const {
  if (has(Bug::one_header_copy)) copies[0] = copies[1] = with_checksum(copies[0]);
  if (has(Bug::header_checksum_ignored) && copies[0] == copies[1]) {
    for (Words& words : copies) words = with_checksum(words);
  }
  if (has(Bug::uninitialised_counts) && copies == Copies{}) copies.fill(words_of({}));
  return capture::read_wal_index_header(copies.data()).has_value();
}

void Model::read_steps() {
  const State& now = *from_;
  const auto step = [&](const char* what, auto&& change) {
    add(what, kReader, false, [&](State& s) { change(s); });
  };
  const Byte i = now.read;
  switch (now.look) {
    case Look::header:
      return step("reads a piece of the header", [&](State& s) {
        if (i == 0) s.since = s.visible;
        const std::size_t copy = i / kPiecesOfCopy;
        copy_piece(s.seen_copies[copy], s.copies[copy], i % kPiecesOfCopy);
        if (++s.read == 2 * kPiecesOfCopy) s.look = Look::decide;
      });
    case Look::decide:
      return step("compares the copies", [&](State& s) {
        const Copies read = std::exchange(s.seen_copies, Copies{});
        if (!accepts(read)) return forget(s);
        s.seen = header_of(read[0]);
        s.look = s.seen.frame != 0 ? Look::pages : Look::again;
        s.read = 0;
        s.image.fill(s.file);
      });
    case Look::pages:
      return step("reads a frame's page number", [&](State& s) {
        s.seen_pages[i] = s.pages[i];
        if (++s.read < s.seen.frame) return;
        s.look = Look::frames;
        s.read = 0;
      });
    case Look::frames: {
      const Frame& frame = now.wal[i / 2];
      if (i % 2 == 0) {
        return step("reads a frame's header", [&](State& s) {
          const bool same = frame.salt == s.seen.salt && frame.page == s.seen_pages[i / 2];
          if (!same) return forget(s);
          ++s.read;
        });
      }
      return step("reads a frame's page", [&](State& s) {
        s.image[s.seen_pages[i / 2]] = frame.image;
        if (++s.read == 2 * s.seen.frame) s.look = Look::again;
      });
    }
    case Look::again:
      return step("reads the header again", [&](State& s) {
        const Header header = header_of(s.copies[0]);
        const bool same =
            accepts(s.copies) && header.salt == s.seen.salt && header.frame >= s.seen.frame;
        if (!same && !has(Bug::header_not_read_again)) return forget(s);
        s.look = Look::over;
      });
    case Look::over:
      return;
  }
}

}  // namespace sqlstream::model::reading
