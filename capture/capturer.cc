#include "capture/capturer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <sys/uio.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/reserve_apart.h"
#include "capture/continuity.h"
#include "format/database_header.h"
#include "format/wal.h"

namespace sqlstream::capture {
namespace {

constexpr int kAttempts = 20;
constexpr auto kHeaderPatience = std::chrono::milliseconds(200);
constexpr auto kInVain = std::chrono::seconds(1);
constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kCalm = 60 * kSecond;  // a generation this old is no quick start
constexpr std::int64_t kLongestPause = 300 * kSecond;

std::int64_t now_ns() {
  return now().time_since_epoch().count();
}

std::uint64_t frame_offset(std::uint32_t frame, std::uint32_t page_size) {
  return wal::kHeaderSize + std::uint64_t{frame - 1} * (wal::kFrameHeaderSize + page_size);
}

std::optional<wal::FrameHeader> read_frame_header(int fd, std::uint32_t frame,
                                                  std::uint32_t page_size) {
  std::array<std::uint8_t, wal::kFrameHeaderSize> bytes{};
  const auto offset = static_cast<off_t>(frame_offset(frame, page_size));
  if (::pread(fd, bytes.data(), bytes.size(), offset) != static_cast<ssize_t>(bytes.size())) {
    return std::nullopt;
  }
  return wal::decode_frame_header(bytes);
}

class WalFileEvidence final : public WalEvidence {
 public:
  WalFileEvidence(int fd, const WalIndexHeader& header) : fd_(fd), header_(header) {}

  std::optional<wal::FrameHeader> frame(std::uint32_t number) const override {
    return read_frame_header(fd_, number, header_.page_size);
  }

  std::optional<std::uint32_t> commits() const override {
    std::uint32_t commits = 0;
    wal::FrameHeader before;
    for (std::uint32_t number = 1; number <= header_.frames; ++number) {
      const auto found = frame(number);
      if (!found || !is_of_wal(*found, header_)) return std::nullopt;
      if (found->commit_size != 0) ++commits;
      // Without "powersafe overwrite" SQLite repeats a commit's last frame up to the end of a
      // sector: that is no commit, and cannot be told from one that wrote what was there.
      const bool may_be_padding = found->commit_size != 0 && found->page == before.page &&
                                  found->commit_size == before.commit_size;
      if (may_be_padding && is_same_image(number - 1, number)) return std::nullopt;
      before = *found;
    }
    return commits;
  }

 private:
  // Also when they cannot be read.
  bool is_same_image(std::uint32_t one, std::uint32_t other) const {
    std::array<Bytes, 2> images{Bytes(header_.page_size), Bytes(header_.page_size)};
    const std::array frames{one, other};
    for (std::size_t i = 0; i < images.size(); ++i) {
      const auto offset = frame_offset(frames[i], header_.page_size) + wal::kFrameHeaderSize;
      const ssize_t n =
          ::pread(fd_, images[i].data(), images[i].size(), static_cast<off_t>(offset));
      if (n != static_cast<ssize_t>(images[i].size())) return true;
    }
    return images[0] == images[1];
  }

  int fd_;
  const WalIndexHeader& header_;
};

bool is_readable(const Source& source, const WalIndexHeader& header) {
  return header.frames == 0 || (wal::is_valid_page_size(header.page_size) && source.wal_fd >= 0);
}

bool has_wal(const std::string& database) {
  const auto wal = identify(database + "-wal");
  return wal && wal->size != 0;
}

// The file alone was the whole state, and all that is in the WAL now was there when it was looked
// at: else a checkpoint of what came since may have been broken off half way.
bool is_still_whole(const Source& source, const WalIndexHeader& header, const DatabaseShape& shape,
                    const std::string& database) {
  if (source.regions.empty()) return !has_wal(database) && shape.wal_mode;
  const auto now = read_wal_index_header(source.regions[0]);
  return now && now->salt == header.salt && now->frames == header.frames;
}

bool is_quick_start(const Control& control, std::int64_t time) {
  return control.last_start != 0 && time - control.last_start < kCalm && time >= control.last_start;
}

struct PageFrame {
  std::uint32_t page;
  std::uint32_t frame;
};

// The newest frame of each page in first..last, ascending by frame; nothing beyond the final size.
// Empty when the wal-index holds a zero, which it never does for a committed frame.
std::optional<std::vector<PageFrame>> newest_frames(const Source& source,
                                                    const WalIndexHeader& header,
                                                    std::uint32_t first) {
  std::vector<PageFrame> newest;
  reserve_apart(newest, header.frames - first + 1);
  const std::uint32_t lock_page = wal::lock_byte_page(header.page_size);
  for (std::uint32_t frame = first; frame <= header.frames; ++frame) {
    const std::uint32_t page = page_of_frame(source.regions, frame);
    if (page == 0) return std::nullopt;
    if (page > header.pages || page == lock_page) continue;
    newest.push_back({page, frame});
  }
  // A set of a large transaction's pages would take much more memory.
  std::sort(newest.begin(), newest.end(), [](const PageFrame& a, const PageFrame& b) {
    return a.page != b.page ? a.page < b.page : a.frame > b.frame;
  });
  const auto same_page = [](const PageFrame& a, const PageFrame& b) { return a.page == b.page; };
  newest.erase(std::unique(newest.begin(), newest.end(), same_page), newest.end());
  std::sort(newest.begin(), newest.end(),
            [](const PageFrame& a, const PageFrame& b) { return a.frame < b.frame; });
  return newest;
}

// What page 1 counts in that frame of it; 0: nothing valid. Empty: it is not what the wal-index
// says.
std::optional<std::uint32_t> counted_pages(int fd, const PageFrame& frame,
                                           const WalIndexHeader& header) {
  std::array<std::uint8_t, wal::kFrameHeaderSize + DatabaseHeader::kSize> bytes{};
  const auto offset = static_cast<off_t>(frame_offset(frame.frame, header.page_size));
  if (::pread(fd, bytes.data(), bytes.size(), offset) != static_cast<ssize_t>(bytes.size())) {
    return std::nullopt;
  }
  const std::span<const std::uint8_t, std::tuple_size_v<decltype(bytes)>> all(bytes);
  const auto head = wal::decode_frame_header(all.first<wal::kFrameHeaderSize>());
  if (head.page != frame.page || !is_of_wal(head, header)) return std::nullopt;
  return decode_database_header(all.subspan<wal::kFrameHeaderSize>()).pages;
}

// The pages of the database behind these frames. A commit counts all that the file has, which may
// be more than are the database's; stock Litestream does not restore what so grows without frames.
// `counted_before`: what page 1 counts where none of the frames is of it; 0: not known. Empty: the
// frames are not what the wal-index says.
std::optional<std::uint32_t> database_size(int fd, std::span<const PageFrame> frames,
                                           const WalIndexHeader& header,
                                           const std::function<std::uint32_t()>& counted_before) {
  std::uint32_t highest = 0;
  const PageFrame* first_page = nullptr;
  for (const PageFrame& frame : frames) {
    highest = std::max(highest, frame.page);
    if (frame.page == 1) first_page = &frame;
  }
  if (highest >= header.pages) return header.pages;
  const auto counted = first_page == nullptr ? std::optional(counted_before())
                                             : counted_pages(fd, *first_page, header);
  if (counted == 0U) return header.pages;
  return counted ? std::optional(std::clamp(*counted, highest, header.pages)) : counted;
}

// Reads the pages of `frames` into `out`, neighbours in one call. False when a frame is not what
// the wal-index says: the WAL was reset meanwhile. Where the last committed one is unsealed,
// the header's checksum is of a frame that was rolled back: `place` proves nothing by it then.
bool read_frames(int fd, std::span<const PageFrame> frames, const WalIndexHeader& header,
                 std::span<std::uint8_t> out, SourcePosition& place) {
  constexpr std::size_t kBatch = 256;
  const std::size_t page_size = header.page_size;
  std::array<std::array<std::uint8_t, wal::kFrameHeaderSize>, kBatch> heads{};
  std::array<iovec, kBatch * 2> parts{};
  std::size_t i = 0;
  while (i < frames.size()) {
    std::size_t n = 0;
    do {
      parts[2 * n] = {heads[n].data(), wal::kFrameHeaderSize};
      parts[2 * n + 1] = {out.data() + (i + n) * page_size, page_size};
      ++n;
    } while (n < kBatch && i + n < frames.size() &&
             frames[i + n].frame == frames[i + n - 1].frame + 1);
    const auto wanted = static_cast<ssize_t>(n * (wal::kFrameHeaderSize + page_size));
    const auto offset = static_cast<off_t>(frame_offset(frames[i].frame, header.page_size));
    ssize_t got = 0;
    do {
      got = ::preadv(fd, parts.data(), static_cast<int>(2 * n), offset);
    } while (got < 0 && errno == EINTR);
    if (got != wanted) return false;
    for (std::size_t k = 0; k < n; ++k) {
      const auto head = wal::decode_frame_header(heads[k]);
      if (head.page != frames[i + k].page || !is_of_wal(head, header)) return false;
      if (frames[i + k].frame == header.frames && is_unsealed(head)) place.sum = {};
    }
    i += n;
  }
  return true;
}

}  // namespace

std::uint64_t outbox_limit(std::uint64_t max_size, const Record& last) {
  if (max_size != 0) return max_size;
  return std::max<std::uint64_t>(1ULL << 30,
                                 std::uint64_t{2} * last.database_size * last.page_size);
}

Capturer::Capturer(Outbox& outbox, std::string database_path,
                   std::function<std::optional<DatabaseShape>()> shape, std::uint64_t max_size)
    : outbox_(outbox),
      path_(std::move(database_path)),
      shape_(std::move(shape)),
      max_size_(max_size) {}

Outcome Capturer::capture(const Source& source, std::chrono::nanoseconds wait, bool must) {
  try {
    const auto lock = must ? outbox_.lock_patiently(wait) : outbox_.lock(wait);
    if (!lock) return Outcome::busy;
    outbox_.refresh();
    if (source.recovered) session_began();  // the change counter began anew
    const auto deadline = std::chrono::steady_clock::now() +
                          std::min<std::chrono::nanoseconds>(wait, kHeaderPatience);
    for (int attempt = 0;; ++attempt) {
      const Outcome outcome = capture_locked(source);
      if (outcome == Outcome::captured || outcome == Outcome::up_to_date) {
        anchored_ = true;
        outbox_.note_proven();
      }
      if (source.checkpoint_begins && outcome != Outcome::moved) withdraw_mark();
      if (outcome != Outcome::try_again) {
        in_vain_since_.reset();
        return outcome;
      }
      // SQLite holds the header inconsistent for some stores only, but its thread may have lost the
      // processor between two of them.
      if (attempt < kAttempts) continue;
      if (std::chrono::steady_clock::now() >= deadline) break;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    if (!source.regions.empty()) tried_in_vain();
    return Outcome::try_again;
  } catch (const std::exception& e) {
    fail(e);
    return Outcome::failed;
  }
}

Outcome Capturer::capture_locked(const Source& given) {
  Source source = given;
  if (source.regions.empty()) return Outcome::try_again;
  const auto header = read_wal_index_header(source.regions[0]);
  if (!header) return Outcome::try_again;
  alive_ = outbox_.generation_alive();
  const FileLook file = look_at_file(source, *header);
  if (is_moved(source, file)) return moved(source, *header);
  if (outbox_.control().left_wal != 0) {
    Control control = outbox_.control();
    control.left_wal = 0;
    outbox_.set_control(control);
    log::info("the database is in WAL mode again", {{"db", path_}});
  }
  const bool same = outbox_.tail() && is_this_file(source, file, *header);
  if (alive_ && same && is_unchanged(outbox_.tail()->last.source, *header)) {
    // Without a look at the WAL, which another connection may have deleted by now.
    mark_file(source, file, *header);
    return nothing_new(*header);
  }
  if (header->frames > 0 && source.wal_fd < 0 && ::access((path_ + "-wal").c_str(), F_OK) != 0 &&
      errno == ENOENT) {
    throw Error(
        "the -wal file was removed while the database is open, and what is committed is in no "
        "file; restart the program");
  }
  if (!is_readable(source, *header)) return Outcome::try_again;
  std::optional<Range> range;
  if (alive_ && same) {
    const char* why = "";
    range = prove(source, *header, *file.identity, why);
    if (!range) give_up(why);
  }
  if (!range) {
    const Outcome outcome = begin(source);
    if (outcome == Outcome::waiting && same) mark_file(source, file, *header);
    return outcome;
  }
  Outcome outcome = Outcome::up_to_date;
  if (range->first > range->last) {
    nothing_new(*header);
  } else if (map_regions(source, header->frames)) {
    outcome = append(source, *header, *range);
  } else {
    return Outcome::busy;
  }
  if (outcome == Outcome::captured || outcome == Outcome::up_to_date) {
    mark_file(source, file, *header);
  }
  return outcome;
}

// What is committed through that handle from now on goes nowhere. Only the generation of its own
// file ends, with what came until then.
Outcome Capturer::moved(Source& source, const WalIndexHeader& header) {
  const FileIdentity& opened = *source.opened;
  const bool its_own =
      alive_ && outbox_.tail()->device == opened.device && outbox_.tail()->inode == opened.inode;
  if (!its_own) return Outcome::moved;
  if (is_readable(source, header)) {
    const char* why = "";
    // What the file was like when it was opened proves nothing of what was written since.
    const auto range = prove(source, header, FileIdentity{}, why);
    if (range && range->first <= range->last && map_regions(source, header.frames)) {
      append(source, header, *range);
    }
  }
  doubt_file("the database file was moved, deleted or replaced while it was open", {});
  return Outcome::moved;
}

Capturer::FileLook Capturer::look_at_file(const Source& source,
                                          const WalIndexHeader& header) const {
  const volatile void* region0 = source.regions[0];
  FileLook look;
  const CheckpointProgress progress = read_checkpoint_progress(region0);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  look.identity = identify(path_);
  if (!look.identity && errno != ENOENT && errno != ENOTDIR) {
    throw std::system_error(errno, std::generic_category(), "cannot look at " + path_);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const bool steady = read_checkpoint_progress(region0) == progress;
  const auto after = read_wal_index_header(region0);
  if (look.identity && steady && after && after->salt == header.salt) {
    look.mark = FileMark{*look.identity, header.salt, source.checkpoint_begins.value_or(progress)};
  }
  return look;
}

bool Capturer::is_moved(const Source& source, const FileLook& file) {
  return source.opened && !(file.identity && file.identity->same_file(*source.opened));
}

// Precondition: there is a tail. False: its generation is not of the file as it is now, and ends.
bool Capturer::is_this_file(const Source& source, const FileLook& file,
                            const WalIndexHeader& header) {
  const Tail& tail = *outbox_.tail();
  const FileNote& known = outbox_.file_note();
  if (!file.identity || file.identity->device != tail.device ||
      file.identity->inode != tail.inode) {
    doubt_file("the database file was replaced", {});
    return false;
  }
  if (known.overwritten && alive_) {
    doubt_file("what it left out of the WAL was not noted when it was begun", file.mark);
    return false;
  }
  if (!file.mark) return true;
  if (known.left_out > file.mark->progress.done && known.left_out_of == file.mark->salt) {
    doubt_file("a recovery brought back what was in the WAL before the file was overwritten", {});
    return false;
  }
  if (!known.mark || known.mark->same_content(*file.identity)) return true;
  const bool stamped = tail.last.identity.inode != 0 && file.mark->same_content(tail.last.identity);
  // Where one of ours begins it has the lock, and no other one is under way.
  const Moment moment{source.recovered, source.checkpoint_begins.has_value(), now_ns()};
  if (stamped || !is_same_rest(*known.mark, *file.mark, tail.last, moment)) return true;
  // A writer without this project may have done it, and be noticed by what it left out.
  const char* why = "";
  if (!alive_ || !is_readable(source, header) || prove(source, header, *file.identity, why)) {
    why = "the database file was overwritten while it was in use, but not by SQLite";
  }
  doubt_file(why, file.mark);
  return false;
}

// `mark`: what is known of the file that is there now.
void Capturer::doubt_file(std::string_view why, const std::optional<FileMark>& mark) {
  // First: who is ended in between leaves a mark that is doubted again.
  give_up(why);
  FileNote note = outbox_.file_note();
  if (!note.overwritten || mark) {
    note.overwritten = true;
    note.mark = mark;
    note.left_out = 0;
    outbox_.set_file_note(note);
  }
}

void Capturer::withdraw_mark() {
  FileNote note = outbox_.file_note();
  if (!note.mark) return;
  note.mark.reset();
  outbox_.set_file_note(note);
}

// Behind a capture, or a checkpoint's end, which comes behind one; not where one begins.
void Capturer::mark_file(const Source& source, const FileLook& file, const WalIndexHeader& header,
                         bool locked) noexcept {
  if (!file.mark || source.checkpoint_begins) return;
  FileNote note = outbox_.file_note();
  FileMark mark = *file.mark;
  const bool same =
      note.mark && note.mark->same_content(mark.file) && note.mark->same_progress(mark);
  if (!same && !is_at_rest(mark, {source.recovered, locked, now_ns()})) return;
  const Record& last = outbox_.tail()->last;
  const bool seen_through =
      header.frames == 0 || (last.source.salt == header.salt && last.source.frame == header.frames);
  if (alive_ && seen_through && mark.progress.done >= header.frames) mark.whole_at = last.sequence;
  if (same && (mark.whole_at == 0 || note.mark->whole_at == mark.whole_at)) return;
  note.mark = mark;
  outbox_.set_file_note(note);
}

// What was known of the file is of other times than those it gets now.
std::optional<FileIdentity> Capturer::stamp() {
  withdraw_mark();
  return stamp_identity(path_);
}

void Capturer::checkpoint_ended(const Source& source) noexcept {
  try {
    const auto lock = outbox_.lock(std::chrono::milliseconds(5));
    if (!lock) return;
    outbox_.refresh();
    const auto header = read_wal_index_header(source.regions[0]);
    if (!header || !outbox_.tail()) return;
    alive_ = outbox_.generation_alive();
    const FileLook file = look_at_file(source, *header);
    // The lock is still held. It may have failed, and what it wrote is there.
    if (!is_moved(source, file)) mark_file(source, file, *header, true);
  } catch (const std::exception&) {  // the next capture looks, too
  }
}

// The outbox's last record and the wal-index now mean the same. Its change counter may have begun
// anew since the record was written (recovery sets it to 0): what is counted from here on is
// counted from its value now.
Outcome Capturer::nothing_new(const WalIndexHeader& header) {
  anchor_ =
      Anchor{outbox_.tail()->last.chain, {header.salt, header.frames, header.change, header.sum}};
  error_.clear();
  return Outcome::up_to_date;
}

std::optional<Capturer::Range> Capturer::prove(const Source& source, const WalIndexHeader& header,
                                               const FileIdentity& database, const char*& why) {
  const Tail& tail = *outbox_.tail();
  const bool anchor_holds = anchored_ && anchor_ && anchor_->chain == tail.last.chain;
  const Known known{tail.last, anchor_holds ? anchor_->position : tail.last.source, anchored_};
  const auto proof =
      prove_continuity(known, header, database, WalFileEvidence(source.wal_fd, header));
  why = proof.why;
  if (!proof.first) return std::nullopt;
  return Range{*proof.first, header.frames};
}

Outcome Capturer::begin_from_file() {
  try {
    const auto lock = outbox_.lock(std::chrono::milliseconds(50));
    if (!lock) return Outcome::busy;
    outbox_.refresh();
    alive_ = outbox_.generation_alive();
    if (alive_) return Outcome::up_to_date;
    const auto shape = shape_();
    if (has_wal(path_) || !shape || !shape->wal_mode) return Outcome::up_to_date;
    return may_begin() ? begin_with({}, {}) : Outcome::waiting;
  } catch (const std::exception& e) {
    fail(e);
    return Outcome::failed;
  }
}

// False: error_ says what is waited for. Throws where no wait helps.
bool Capturer::may_begin() {
  if (!is_outbox(outbox_.directory(), outbox_.lock_inode())) {
    throw outbox_deleted(outbox_.directory());
  }
  const Control& control = outbox_.control();
  const std::int64_t time = now_ns();
  if (control.full != 0) {
    error_ =
        "the outbox reached outbox-max-size; a new generation begins once the replica takes data";
    return false;
  }
  if (is_quick_start(control, time) && control.quick_starts > 1 && !hurried_) {
    const std::int64_t pause =
        std::min(kLongestPause, kSecond / 2 << std::min(control.quick_starts, 12U));
    if (time - control.last_start < pause) {
      error_ = "generations were begun in quick succession; the next one waits";
      return false;
    }
  }
  return true;
}

// Another process that found the generation given up resets the WAL without waiting for the lock.
// Either it sees the announcement before, and waits, or what was committed by then is seen here.
Outcome Capturer::begin(Source& source) {
  if (!may_begin()) return Outcome::waiting;
  outbox_.announce_beginning(now_ns());
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const auto header = read_wal_index_header(source.regions[0]);
  if (!header || !is_readable(source, *header)) return Outcome::try_again;
  return map_regions(source, header->frames) ? begin_with(source, *header) : Outcome::busy;
}

Outcome Capturer::begin_with(const Source& source, const WalIndexHeader& header) {
  const std::int64_t time = now_ns();
  const auto database = identify(path_);
  if (!database) return Outcome::waiting;
  if (source.opened && !database->same_file(*source.opened)) return Outcome::moved;
  // What checkpoints brought into the file is there, but for a power failure: so all of the WAL is
  // taken, unless the file has come from elsewhere since; also when a generation before this one
  // began with that.
  std::uint32_t in_file = 0;
  const FileNote& known = outbox_.file_note();
  const bool left_out = known.left_out != 0 && known.left_out_of == header.salt;
  if ((known.overwritten || left_out) && header.frames > 0) {
    in_file = std::min(read_checkpoint_progress(source.regions[0]).done, header.frames);
  }

  Record record;
  record.page_size = header.page_size;
  record.database_size = header.pages;
  std::vector<PageFrame> frames;
  if (header.frames > in_file) {
    auto newest = newest_frames(source, header, in_file + 1);
    if (!newest) return Outcome::try_again;
    frames = std::move(*newest);
    const auto size = database_size(source.wal_fd, frames, header, [&] {
      const auto shape = shape_();
      return shape ? shape->counted : 0;
    });
    if (!size) return Outcome::try_again;
    record.database_size = *size;
  } else {
    const auto identity = stamp();
    const auto shape = shape_();
    if (!shape) return Outcome::up_to_date;  // an empty database: nothing to replicate yet
    if (identity && identify(path_) != identity) return Outcome::try_again;  // written meanwhile
    // Before the stamp, perhaps.
    if (!is_still_whole(source, header, *shape, path_)) return Outcome::try_again;
    record.page_size = shape->page_size;
    record.database_size = shape->pages;
    record.identity = identity.value_or(FileIdentity{});
  }
  record.first_commit = record.last_commit = time;
  record.source = {header.salt, header.frames, header.change, header.sum};

  std::vector<std::uint32_t> pages;
  reserve_apart(pages, frames.size());
  for (const auto& frame : frames) pages.push_back(frame.page);
  const auto images = [&](std::size_t first, std::size_t count, std::span<std::uint8_t> out) {
    return read_frames(source.wal_fd, std::span(frames).subspan(first, count), header, out,
                       record.source) &&
           (first + count < frames.size() ||
            read_wal_index_header(source.regions[0]).value_or(WalIndexHeader{}).salt ==
                header.salt);
  };
  const Control before = outbox_.control();
  Control control = before;
  control.quick_starts = is_quick_start(before, time) ? before.quick_starts + 1 : 0;
  control.last_start = time;
  outbox_.set_control(control);
  const Generation generation = Generation::random();
  if (!outbox_.begin_generation(generation, *database, record, pages, images)) {
    outbox_.set_control(before);  // the WAL was reset meanwhile, and what begins next counts
    return Outcome::try_again;
  }
  alive_ = true;
  recovered();
  FileNote note = outbox_.file_note();
  if (note.overwritten || note.left_out != 0) {
    note.overwritten = false;
    note.left_out = in_file;
    note.left_out_of = header.salt;
    outbox_.set_file_note(note);
  }
  if (!source.regions.empty()) mark_file(source, look_at_file(source, header), header);
  log::info("new generation", {{"db", path_}, {"generation", generation.str()}});
  return Outcome::captured;
}

Outcome Capturer::append(Source& source, const WalIndexHeader& header, Range range) {
  const auto newest = newest_frames(source, header, range.first);
  // Nothing of what is new is in the database: that was no look at one state.
  if (!newest || newest->empty()) return Outcome::try_again;
  const Tail& tail = *outbox_.tail();
  Record record;
  const auto size =
      header.pages <= tail.last.database_size
          ? header.pages
          : database_size(source.wal_fd, *newest, header, [&] { return tail.last.database_size; });
  if (!size) return Outcome::try_again;
  record.page_size = header.page_size;
  record.database_size = *size;
  record.source = {header.salt, header.frames, header.change, header.sum};
  const std::uint32_t changes = header.change - tail.last.source.change;
  record.commits = changes >= 1 && changes <= range.last - range.first + 1 ? changes : 1;
  // Commit times never run backwards within a generation, whatever the clock does.
  const std::int64_t newest_commit =
      source.own_commit_time != 0 && source.own_change == header.change ? source.own_commit_time
                                                                        : now_ns();
  record.last_commit = std::max(newest_commit, tail.last.last_commit);
  record.first_commit =
      source.first_commit_time == 0
          ? record.last_commit
          : std::clamp(source.first_commit_time, tail.last.last_commit, record.last_commit);

  std::vector<std::uint32_t> pages;
  reserve_apart(pages, newest->size());
  for (const auto& frame : *newest) pages.push_back(frame.page);
  const auto images = [&](std::size_t first, std::size_t count, std::span<std::uint8_t> out) {
    if (!read_frames(source.wal_fd, std::span(*newest).subspan(first, count), header, out,
                     record.source)) {
      return false;
    }
    if (first + count < newest->size()) return true;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const auto after = read_wal_index_header(source.regions[0]);
    return after && after->salt == header.salt && after->frames >= header.frames;
  };
  const std::uint64_t limit = outbox_limit(max_size_, record);
  // Looked at once per log file: cheap, and exact enough for a bound of many files.
  if (outbox_.at_rotation() && outbox_.size() > limit) {
    Control control = outbox_.control();
    control.full = 1;
    outbox_.set_control(control);
    give_up("the outbox reached outbox-max-size (" + std::to_string(limit) + " bytes)");
    error_ =
        "the outbox reached outbox-max-size; a new generation begins once the replica takes data";
    return Outcome::waiting;
  }
  if (!outbox_.append_batch(record, pages, images)) return Outcome::try_again;
  frames_ += range.last - range.first + 1;
  recovered();
  return Outcome::captured;
}

bool Capturer::note_new_wal(const Source& given, std::optional<wal::Salt> salt,
                            std::chrono::nanoseconds wait) {
  try {
    Source source = given;
    // Who finds its generation given up waits for nobody. Before its first look it knows of none.
    const bool ended = outbox_.tail() && !outbox_.generation_alive();
    if (source.regions.empty() || ended) return true;
    const auto lock = outbox_.lock_patiently(wait);
    if (!lock) return false;
    outbox_.refresh();
    alive_ = outbox_.generation_alive();
    if (!alive_) return true;
    const auto header = read_wal_index_header(source.regions[0]);
    if (!header || header->frames != 0) return true;
    const Record& last = outbox_.tail()->last;
    if (salt == last.source.salt) return true;
    const FileLook file = look_at_file(source, *header);
    const char* why = "";
    if (is_moved(source, file) || !is_this_file(source, file, *header) ||
        !prove(source, *header, *file.identity, why)) {
      return true;  // the next capture says so
    }
    anchored_ = true;

    Record record;
    record.kind = RecordKind::reset;
    record.source = {salt.value_or(header->salt), 0, header->change, header->sum};
    // Two resets without a commit between them: who noted the first may have died, and the WAL on
    // disk, or in a wal-index that lives on, be the one before either. Whichever comes back, all of
    // it is in the file.
    const bool again = last.kind == RecordKind::reset && last.source.frame == 0;
    record.previous = again ? last.previous : last.source;
    if (last.identity.inode != 0 && identify(path_) == last.identity) {
      record.identity = last.identity;
    } else if (again || !salt) {
      record.identity = stamp().value_or(FileIdentity{});
    }
    outbox_.append_mark(record);
    mark_file(source, look_at_file(source, *header), *header);
  } catch (const std::exception& e) {
    fail(e);
  }
  return true;
}

void Capturer::note_clean_close(const std::optional<FileIdentity>& opened) {
  try {
    const auto lock = outbox_.lock(std::chrono::seconds(2));
    if (!lock) return;
    outbox_.refresh();
    if (!outbox_.generation_alive()) return;
    const Record& last = outbox_.tail()->last;
    const auto file = identify(path_);
    if (opened && !(file && file->same_file(*opened))) return;
    if (last.identity.inode != 0 && file == last.identity) return;
    const auto mark = outbox_.file_note().mark;
    const auto identity = stamp();
    if (!identity) return;
    Record record;
    record.kind = RecordKind::clean;
    record.source = last.source;
    record.previous = last.previous;
    record.identity = *identity;
    outbox_.append_mark(record);
    if (!mark) return;
    // A WAL that stays behind a close (SQLITE_FCNTL_PERSIST_WAL) proves nothing of the file.
    FileNote note = outbox_.file_note();
    note.mark = mark;
    note.mark->file = *identity;
    outbox_.set_file_note(note);
  } catch (const std::exception& e) {
    fail(e);
  }
}

void Capturer::give_up(std::string_view why) noexcept {
  try {
    alive_ = false;
    if (!outbox_.generation_alive()) return;
    const Generation generation = outbox_.tail()->generation;
    outbox_.end_generation(generation);
    if (generation == given_up_) return;
    given_up_ = generation;
    log::warn("generation ended: " + std::string(why),
              {{"db", path_}, {"generation", generation.str()}});
  } catch (const std::exception& e) {
    fail(e);
  }
}

bool Capturer::map_regions(Source& source, std::uint32_t frames) const {
  for (std::size_t i = source.regions.size(); i < regions_for(frames); ++i) {
    const volatile void* region = source.map_more ? source.map_more(i) : nullptr;
    if (region == nullptr) return false;
    source.regions.push_back(region);
  }
  return true;
}

// Once until something was written again, though one fault shows in several ways.
void Capturer::fail(const std::exception& error) noexcept {
  try {
    error_ = error.what();
    if (std::exchange(failing_, true)) return;
    log::error("cannot capture: " + error_, {{"db", path_}});
  } catch (const std::bad_alloc&) {
    error_ = "out of memory";  // so short that it is in the string itself
  }
}

// It passes within moments, as a rule.
void Capturer::tried_in_vain() {
  const auto now = std::chrono::steady_clock::now();
  if (!in_vain_since_) in_vain_since_ = now;
  if (now - *in_vain_since_ >= kInVain) {
    throw Error(
        "what was committed last could not be captured yet: the WAL and its index do not agree; "
        "behind PRAGMA wal_checkpoint a new generation begins");
  }
}

void Capturer::recovered() {
  error_.clear();
  if (std::exchange(failing_, false)) log::info("capturing again", {{"db", path_}});
}

}  // namespace sqlstream::capture
