#include "replicate/keeper.h"

#include <array>
#include <fcntl.h>
#include <unistd.h>
#include <utility>

#include "capture/wal_index.h"

namespace sqlstream {
namespace {

constexpr auto kWalPatience = std::chrono::milliseconds(500);
constexpr auto kWriteLockPatience = std::chrono::milliseconds(500);

// A generation that waits for its beginning needs nothing of the WAL held back: it begins with all
// that is there then.
bool nothing_to_hold_for(capture::Outcome outcome) {
  return outcome == capture::Outcome::captured || outcome == capture::Outcome::up_to_date ||
         outcome == capture::Outcome::waiting;
}

bool is_whole_in_file(const WalState& state) {
  return state.backfilled >= state.frames;
}

// By SQLite's result; SQLITE_OK: nothing failed, and WAL mode is off.
[[noreturn]] void refuse(const std::string& path, int result) {
  const std::string what = "cannot replicate " + path + ": ";
  switch (result) {
    case SQLITE_OK:
      throw Busy(what + "it is not in WAL mode; set PRAGMA journal_mode=WAL");
    case SQLITE_NOTADB:
      throw Error(path + " is not a database, or is an encrypted one; waiting for a database");
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
      throw Error(what +
                  "this user cannot create files in its folder; let it, or run as the database's "
                  "owner");
    case SQLITE_BUSY:
      throw Busy(what +
                 "another program holds it, with locking_mode=EXCLUSIVE or a transaction that "
                 "stays open; it is replicated once that lets go");
    default:
      throw Busy(what + sqlite3_errstr(result));
  }
}

}  // namespace

std::unique_ptr<Keeper> Keeper::open(const std::string& path, Limits limits) {
  const auto file = capture::identify(path);
  if (!file || file->size == 0) return nullptr;
  std::unique_ptr<Keeper> keeper(new Keeper(path, limits));
  keeper->file_ = *file;
  keeper->take_hold();
  return keeper->is_current() ? std::move(keeper) : nullptr;
}

Keeper::Keeper(std::string path, Limits limits)
    : path_(std::move(path)),
      limits_(limits),
      holder_(std::make_unique<Handle>(path_)),
      next_alone_(limits.hard) {}

Keeper::~Keeper() {
  for (auto* handle : {&other_, &holder_}) {
    if (*handle) (*handle)->end();
  }
}

void Keeper::take_hold() {
  const int turned_on = holder_->connection().enable_wal(kWalPatience);
  // In this order: with the first look a generation may begin, and what is reset from then on
  // before it is held could not be proven.
  if (!holder_->begin_read()) refuse(path_, holder_->read_result());
  if (!holder_->is_wal() || holder_->connection().wal_index() == nullptr) refuse(path_, turned_on);
  other_ = std::make_unique<Handle>(path_);
  wal_ = UniqueFd(::open((path_ + "-wal").c_str(), O_RDONLY | O_CLOEXEC));
}

bool Keeper::is_current() const {
  const auto now = capture::identify(path_);
  return now && now->same_file(file_);
}

std::optional<WalState> Keeper::look() {
  holder_->connection().write_lock_released();
  const volatile void* index = holder_->connection().wal_index();
  const auto header = capture::read_wal_index_header(index);
  if (!header) return std::nullopt;
  const auto checkpoint = capture::read_checkpoint_progress(index);
  WalState state{header->salt, header->frames, header->change, checkpoint.done};
  state.under_way = is_under_way(header->page_size, state, checkpoint.begun);
  return state;
}

// Frames reach the WAL some time before the wal-index tells of them: synchronous=FULL waits for the
// disk in between. What was rolled back looks the same, until the next commit overwrites it.
bool Keeper::is_under_way(std::uint32_t page_size, const WalState& state,
                          std::uint32_t begun) const {
  if (begun > state.backfilled && !is_whole_in_file(state)) return true;
  std::array<std::uint8_t, wal::kFrameHeaderSize> frame{};
  const std::uint64_t offset =
      wal::kHeaderSize + state.frames * (std::uint64_t{wal::kFrameHeaderSize} + page_size);
  if (!read_wal(frame, offset)) return false;
  const wal::Salt salt = wal::decode_frame_header(frame).salt;
  if (salt == state.salt) return true;
  // The first commit may take a salt of its own, which the wal-index does not know yet.
  std::array<std::uint8_t, wal::kHeaderSize> first{};
  if (state.frames != 0 || !read_wal(first, 0)) return false;
  const auto header = wal::decode_header(first);
  return header && header->salt == salt;
}

bool Keeper::read_wal(std::span<std::uint8_t> bytes, std::uint64_t offset) const {
  return ::pread(wal_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(bytes.size());
}

bool Keeper::has_news(const WalState& state) const {
  if (!stepped_ || !state.same_commit(*stepped_)) return true;
  return is_whole_in_file(state) && !is_whole_in_file(*stepped_);
}

std::uint32_t Keeper::behind(const WalState& state) const {
  if (!stepped_) return state.frames;
  return state.salt == stepped_->salt ? state.frames - stepped_->frames : state.frames;
}

bool Keeper::captured(Handle& handle, bool must) {
  return nothing_to_hold_for(handle.connection().capture(must)) || must;
}

bool Keeper::advance(const WalState& state) {
  if (!other_->begin_read()) return false;
  // Over the hard limit nothing holds the WAL back any more: what cannot be captured is given up.
  if (!captured(*other_, state.frames >= limits_.hard)) {
    other_->end();
    return false;
  }
  holder_->end();
  std::swap(holder_, other_);
  // As it was before: what came meanwhile is news.
  stepped_ = state;
  return true;
}

bool Keeper::step() {
  const auto state = look();
  if (!state || !advance(*state)) return false;
  if (state->frames < limits_.soft) {
    next_alone_ = limits_.hard;
    return true;
  }
  if (!is_whole_in_file(*state)) other_->checkpoint();
  const auto after = look();
  if (!after) return true;
  if (is_whole_in_file(*after)) {
    if (has_news(*after)) advance(*after);
  } else if (after->frames >= next_alone_) {
    checkpoint_alone();
    // In vain when a reader of the application's holds it back: not again at every commit.
    next_alone_ = after->frames + limits_.soft;
  }
  return true;
}

// With the write lock, so that writers, who always are ahead, cannot go on: what is left of the
// checkpoint is little. The next writer starts the WAL anew.
void Keeper::checkpoint_alone() {
  if (!other_->begin_write(kWriteLockPatience)) return;
  const auto state = look();
  if (state && captured(*other_, true)) {
    holder_->end();
    holder_->checkpoint();
    holder_->begin_read();
    stepped_ = state;
  }
  other_->end();
}

}  // namespace sqlstream
