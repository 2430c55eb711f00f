#include "capture/outbox.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <sys/stat.h>
#include <sys/types.h>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/folder.h"
#include "base/fork.h"
#include "base/signals.h"
#include "base/unique_fd.h"
#include "capture/outbox_files.h"

namespace sqlstream::capture {
namespace {

int set_byte_lock(int fd, off_t byte, short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return ::fcntl(fd, F_OFD_SETLK, &lock);
}

bool try_lock_byte(int fd, off_t byte) {
  while (set_byte_lock(fd, byte, F_WRLCK) != 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EACCES) return false;
    throw std::system_error(errno, std::generic_category(), "cannot lock the outbox");
  }
  return true;
}

// What a log file's header says of what was before it.
Tail tail_before(const LogHeader& header) {
  return {header.generation, header.generation_first, header.device,   header.inode,
          header.state,      header.batch_chain,      header.wal_first};
}

// A mark counts for the time since the machine was started: the times of files are not kept with
// their content over a power failure.
FileNote from_disk(const DiskFileNote& disk, std::uint32_t boot) {
  FileNote note;
  note.overwritten = disk.overwritten != 0;
  note.left_out = disk.left_out;
  note.left_out_of = {disk.left_out_of[0], disk.left_out_of[1]};
  if (disk.boot == 0 || disk.boot != boot) return note;
  FileMark& mark = note.mark.emplace();
  mark.file.inode = disk.inode;
  mark.file.size = disk.size;
  mark.file.mtime = disk.mtime;
  mark.salt = {disk.salt[0], disk.salt[1]};
  mark.progress = {disk.done, disk.begun};
  mark.whole_at = disk.whole_at;
  return note;
}

DiskFileNote to_disk(const FileNote& note, std::uint32_t boot) {
  DiskFileNote disk{};
  disk.overwritten = note.overwritten ? 1 : 0;
  disk.left_out = note.left_out;
  std::copy(note.left_out_of.begin(), note.left_out_of.end(), disk.left_out_of);
  if (!note.mark) return disk;
  disk.boot = boot;
  disk.inode = note.mark->file.inode;
  disk.size = note.mark->file.size;
  disk.mtime = note.mark->file.mtime;
  std::copy(note.mark->salt.begin(), note.mark->salt.end(), disk.salt);
  disk.done = note.mark->progress.done;
  disk.begun = note.mark->progress.begun;
  disk.whole_at = note.mark->whole_at;
  return disk;
}

// Files that stay, and have the database's mode: not what is there for a moment.
bool is_kept(std::string_view name) {
  constexpr std::array<std::string_view, 4> kNames{"lock", "control", "wake", "old-pages"};
  return name.ends_with(".log") || name.starts_with("replica-") ||
         std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

std::string reason() {
  return std::generic_category().message(errno);
}

}  // namespace

OutboxPlace OutboxPlace::of(const std::string& database_path, const std::string& directory) {
  struct stat st {};
  if (::stat(database_path.c_str(), &st) != 0) {
    throw Error("cannot find the database " + database_path + ": " + reason());
  }
  OutboxPlace place;
  place.directory = directory_of(database_path, directory);
  // The owner may change that at any time, but what was made meanwhile would keep him out.
  place.file_mode = (st.st_mode & 0666) | 0600;
  place.owner = st.st_uid;
  place.group = st.st_gid;
  place.beside_database = directory.empty();
  return place;
}

std::string OutboxPlace::directory_of(const std::string& database_path,
                                      const std::string& directory) {
  if (!directory.empty()) return directory;
  const std::size_t name = database_path.rfind('/') + 1;  // 0 when there is no slash
  return database_path.substr(0, name) + '.' + database_path.substr(name) + "-sqlstream";
}

void OutboxPlace::own(int fd, mode_t mode) const {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return;
  const bool root = ::geteuid() == 0;
  const bool others = (root && st.st_uid != owner) || st.st_gid != group;
  if (others && ::fchown(fd, root ? owner : static_cast<uid_t>(-1), group) == 0) st.st_gid = group;
  // To another group's members it is as open as to anybody.
  if (st.st_gid != group) mode = (mode & ~mode_t{0070}) | (mode & 0007) << 3;
  if ((st.st_mode & 0777) != mode) ::fchmod(fd, mode);
}

mode_t OutboxPlace::folder_mode() const {
  mode_t mode = file_mode;
  for (const mode_t read : {0400U, 0040U, 0004U}) {
    if ((mode & read) != 0) mode |= read >> 2;
  }
  return mode;
}

bool is_outbox(const std::string& directory, std::uint64_t lock_inode) {
  struct stat st {};
  return ::stat((directory + "/lock").c_str(), &st) == 0 && st.st_ino == lock_inode;
}

Error outbox_deleted(const std::string& directory) {
  return Error(
      "the outbox " + directory +
      " was deleted while it was in use; restart the programs that have the database open");
}

Outbox::Outbox(OutboxPlace place, std::uint64_t rotate_size)
    : place_(std::move(place)), rotate_size_(rotate_size) {
  make_folder();
  open_closed_by_fork(lock_fd_, "lock", O_RDWR | O_CREAT);
  struct stat st {};
  if (::fstat(lock_fd_.get(), &st) == 0) lock_inode_ = st.st_ino;
  control_fd_ = UniqueFd(open_file("control", O_RDWR | O_CREAT));
  make_wake();
}

void Outbox::make_folder() const {
  const std::string& dir = place_.directory;
  const mode_t mode = place_.folder_mode();
  if (::mkdir(dir.c_str(), mode & 0700) == 0) {
    const UniqueFd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (fd) place_.own(fd.get(), mode);
  } else if (errno != EEXIST) {
    throw Error("cannot create the outbox directory " + dir + ": " + reason() +
                "; make its parent writable for this user or set outbox-dir");
  } else if (place_.beside_database) {
    follow_database();
  }
}

// The database's mode and owner may have been changed since. Only what this project keeps there,
// of whoever has the folder, and with no other name: root must not give away what somebody else put
// or linked there. The folder last, so that the next one does what was left.
void Outbox::follow_database() const {
  const uid_t self = ::geteuid();
  const auto differs = [&](const struct stat& st, mode_t mode) {
    const bool others = self == 0 && st.st_uid != place_.owner;
    return (st.st_mode & 0777) != mode || st.st_gid != place_.group || others;
  };
  const std::string& dir = place_.directory;
  const UniqueFd folder(
      above_standard(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)));
  struct stat of_folder {};
  if (!folder || ::fstat(folder.get(), &of_folder) != 0) return;
  if (self != 0 && self != of_folder.st_uid) return;
  for (const std::string& name : names_in(dir)) {
    if (!is_kept(name)) continue;
    struct stat st {};
    if (::fstatat(folder.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (!(S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode)) || !differs(st, place_.file_mode)) continue;
    // A child that kept the pipe open would hide from others that its shipper has died.
    hold_off_forks([&] {
      const UniqueFd fd(above_standard(
          ::openat(folder.get(), name.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW)));
      struct stat opened {};
      if (!fd || ::fstat(fd.get(), &opened) != 0) return;
      const bool same = opened.st_dev == st.st_dev && opened.st_ino == st.st_ino;
      if (!same || opened.st_nlink != 1 || opened.st_uid != of_folder.st_uid) return;
      place_.own(fd.get(), place_.file_mode);
    });
  }
  if (differs(of_folder, place_.folder_mode())) place_.own(folder.get(), place_.folder_mode());
}

void Outbox::make_wake() const {
  const std::string path = place_.directory + "/wake";
  if (::mkfifo(path.c_str(), place_.first_mode()) != 0) return;
  // As in follow_database().
  hold_off_forks([&] {
    const UniqueFd fd(
        above_standard(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW)));
    struct stat st {};
    if (fd && ::fstat(fd.get(), &st) == 0 && S_ISFIFO(st.st_mode)) {
      place_.own(fd.get(), place_.file_mode);
    }
  });
}

int Outbox::open_file(const char* name, int flags) const {
  const std::string path = place_.directory + '/' + name;
  const int others = (flags & ~O_CREAT) | O_CLOEXEC | O_NOFOLLOW;
  int not_created = ENOENT;
  if ((flags & O_CREAT) != 0) {
    const int fd =
        above_standard(::open(path.c_str(), others | O_CREAT | O_EXCL, place_.first_mode()));
    if (fd >= 0) {
      place_.own(fd, place_.file_mode);
      return fd;
    }
    not_created = errno;
  }
  const int fd = above_standard(::open(path.c_str(), others));
  if (fd < 0) {
    if (errno == ENOENT) errno = not_created;  // that says why it is not there
    const int error = errno;
    throw Error("cannot open " + path + ": " + reason() +
                cure(error,
                     "; whoever writes the database must be able to write in its outbox "
                     "directory"));
  }
  return fd;
}

// Never open without the fork handlers knowing it: a copy in a child would keep the lock.
void Outbox::open_closed_by_fork(ForkClosedFd& fd, const char* name, int flags) const {
  fd.open([&] { return open_file(name, flags); });
}

Outbox::Lock::~Lock() {
  if (fd_ >= 0) set_byte_lock(fd_, kCaptureByte, F_UNLCK);
}

std::optional<Outbox::Lock> Outbox::lock(std::chrono::nanoseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  auto pause = std::chrono::microseconds(20);
  while (!try_lock_byte(lock_fd_.get(), kCaptureByte)) {
    if (std::chrono::steady_clock::now() >= deadline) return std::nullopt;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(2000));
  }
  return Lock(lock_fd_.get());
}

std::optional<Outbox::Lock> Outbox::lock_patiently(std::chrono::nanoseconds limit) {
  std::optional<Lock> taken;
  while_captured(limit, [&](std::chrono::nanoseconds part) {
    if (auto got = lock(part)) taken.emplace(std::move(*got));
    return taken.has_value();
  });
  return taken;
}

// On disk: what this object knows of it is the lock holder's.
std::uint64_t Outbox::size_on_disk() const {
  std::uint64_t total = 0;
  for (const std::uint64_t file : files_on_disk()) {
    struct stat st {};
    if (::stat(log_path(file).c_str(), &st) == 0) total += static_cast<std::uint64_t>(st.st_size);
  }
  return total;
}

std::uint64_t Outbox::size_if_known() const noexcept {
  try {
    return size_on_disk();
  } catch (const std::exception&) {
    return 0;
  }
}

bool Outbox::try_take_role() {
  if (role_taken_) return true;
  if (!try_lock_byte(lock_fd_.get(), kRoleByte)) return false;
  if (!is_outbox(place_.directory, lock_inode_)) {
    // Its pipe is for others, who have the next one.
    set_byte_lock(lock_fd_.get(), kRoleByte, F_UNLCK);
    throw outbox_deleted(place_.directory);
  }
  // Reading and writing: the pipe never reports its end while this process lives.
  const std::string wake = place_.directory + "/wake";
  make_wake();
  wake_reader_.open([&] {
    return above_standard(::open(wake.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  });
  struct stat st {};
  const bool open = wake_reader_ && ::fstat(wake_reader_.get(), &st) == 0;
  if (!open || !S_ISFIFO(st.st_mode)) {
    const int error = open ? 0 : errno;
    const std::string why = open ? "it is no named pipe" : reason();
    wake_reader_.reset();
    set_byte_lock(lock_fd_.get(), kRoleByte, F_UNLCK);
    throw Error("cannot open " + wake + ": " + why +
                cure(error,
                     "; set outbox-dir to a folder where named pipes can be made, or remove what "
                     "is there in its place"));
  }
  wake_writer_.reset();
  role_taken_ = true;
  return true;
}

void Outbox::release_role() {
  wake_reader_.reset();
  set_byte_lock(lock_fd_.get(), kRoleByte, F_UNLCK);
  role_taken_ = false;
}

int Outbox::watch_role() const {
  UniqueFd fd(above_standard(::open((place_.directory + "/wake").c_str(),
                                    O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW)));
  struct stat st {};
  if (fd && (::fstat(fd.get(), &st) != 0 || !S_ISFIFO(st.st_mode))) {
    fd.reset();
    errno = ENXIO;  // as where nobody reads
  }
  return fd.release();
}

bool Outbox::poke(char wake) {
  if (has_role()) return static_cast<bool>(wake_reader_);
  bool hopeless = false;
  if (!wake_writer_) {
    wake_writer_.open([&] {
      const int fd = watch_role();
      hopeless = fd < 0 && (errno == ENOENT || errno == EACCES);
      return fd;
    });
  }
  if (!wake_writer_) return hopeless;
  // A full pipe is a wake-up already; EPIPE tells that the shipper is gone, which its watcher sees
  // as well.
  WriteSignalHeld pipe(SIGPIPE);
  if (::write(wake_writer_.get(), &wake, 1) < 0 && errno == EPIPE) {
    pipe.take();
    wake_writer_.reset();
    return false;
  }
  return true;
}

void Outbox::read_control() {
  std::array<std::uint8_t, kFileNoteAt + sizeof(DiskFileNote)> bytes{};
  const ssize_t n = ::pread(control_fd_.get(), bytes.data(), bytes.size(), kControlAt);
  if (n < 0) {
    throw std::system_error(errno, std::generic_category(),
                            "cannot read the outbox's control file");
  }
  DiskControl disk{};
  std::memcpy(&disk, bytes.data(), sizeof disk);
  DiskFileNote noted{};
  std::memcpy(&noted, bytes.data() + kFileNoteAt, sizeof noted);
  file_note_ = from_disk(noted, boot_);
  const bool known = n >= static_cast<ssize_t>(kControlLeast) && disk.magic == kControlMagic;
  if (known) {
    control_ = {disk.current_log, disk.last_start, disk.quick_starts, disk.left_wal,
                disk.full,        disk.boot,       disk.snapshot};
  } else {
    // Lost with the machine: the newest log file is the current one.
    control_ = {};
    const auto files = files_on_disk();
    if (!files.empty()) control_.current_log = files.back();
  }
}

void Outbox::refresh() {
  read_control();
  if (control_.current_log == 0) {
    tail_.reset();
    log_.reset();
    return;
  }
  if (!log_ || log_->header().first != control_.current_log) adopt_log(control_.current_log);
  if (!log_) return;
  const std::uint64_t size = log_->size();
  while (log_end_ < size) {
    const auto found = log_->read(log_end_, tail_->last.chain, false);
    if (!found) {
      // Only a process that died (or a machine that did) leaves this behind: we hold the lock.
      log_->truncate(log_end_);
      break;
    }
    advance_tail(found->record);
    log_end_ = found->end;
  }
  if (tail_->last.sequence < tail_->generation_first) {
    // The machine's crash took what the generation began with: nobody knows what it was.
    tail_.reset();
    log_.reset();
    return;
  }
  if (boot_ == 0 || control_.boot != boot_) tail_->last.identity = {};
}

void Outbox::note_proven() {
  if (control_.boot == boot_) return;
  Control control = control_;
  control.boot = boot_;
  set_control(control);
}

void Outbox::adopt_log(std::uint64_t first_sequence) {
  tail_.reset();
  log_.reset();
  const std::string path = log_path(first_sequence);
  try {
    log_ = LogFile::open(path, true);
  } catch (const std::system_error& e) {
    if (e.code() != std::errc::no_such_file_or_directory) throw;
  }
  if (!log_) return;
  const LogHeader& header = log_->header();
  tail_ = tail_before(header);
  log_end_ = LogFile::kHeaderSize;
}

void Outbox::advance_tail(const Record& record) {
  if (record.kind != RecordKind::batch) {
    tail_->wal_first = record.sequence + 1;
  } else {
    if (record.source.salt != tail_->last.source.salt) tail_->wal_first = record.sequence;
    tail_->batch_chain = record.chain;
  }
  tail_->last = record;
}

void Outbox::write_control(const void* from, std::size_t size, off_t at) const {
  if (::pwrite(control_fd_.get(), from, size, at) == static_cast<ssize_t>(size)) return;
  throw std::system_error(errno, std::generic_category(),
                          "cannot write " + place_.directory + "/control");
}

void Outbox::set_control(const Control& control) {
  DiskControl disk{};
  disk.magic = kControlMagic;
  disk.current_log = control.current_log;
  disk.last_start = control.last_start;
  disk.quick_starts = control.quick_starts;
  disk.left_wal = control.left_wal;
  disk.full = control.full;
  disk.boot = control.boot;
  disk.snapshot = control.snapshot;
  write_control(&disk, sizeof disk, kControlAt);
  control_ = control;
}

void Outbox::set_file_note(const FileNote& note) noexcept {
  file_note_ = note;
  if (boot_ == 0) file_note_.mark.reset();
  const DiskFileNote disk = to_disk(file_note_, boot_);
  try {
    write_control(&disk, sizeof disk, kFileNoteAt);
  } catch (const std::exception&) {
    file_note_.mark.reset();
  }
}

std::optional<OldPages> Outbox::begin_snapshot() {
  if (control_.snapshot != 0 && OldPages::open(directory(), control_.snapshot)) return std::nullopt;
  const Record& last = tail_->last;
  Control control = control_;
  control.snapshot = Generation::random().id;
  auto pages = OldPages::create(directory(), place_.first_mode(),
                                {control.snapshot, last.page_size, last.database_size},
                                {last.source.salt, last.source.frame});
  place_.own(pages.fd(), place_.file_mode);
  try {
    set_control(control);
  } catch (...) {
    OldPages::remove(directory());
    throw;
  }
  return pages;
}

void Outbox::end_snapshot() {
  OldPages::remove(directory());
  if (control_.snapshot == 0) return;
  Control control = control_;
  control.snapshot = 0;
  set_control(control);
}

// Before the first record of another WAL. All of the one before is in the database file then: what
// no checkpoint announced, somebody brought there who saves nothing.
void Outbox::check_snapshot(const Record& next) {
  const SourcePosition& before = tail_->last.source;
  if (control_.snapshot == 0 || next.source.salt == before.salt) return;
  try {
    const auto pages = OldPages::open(directory(), control_.snapshot);
    if (!pages || pages->announced().covers(before)) return;
  } catch (const std::exception&) {  // then nobody knows
  }
  end_snapshot();
}

bool Outbox::at_rotation() const {
  return log_ && log_end_ >= rotate_size_;
}

bool Outbox::append_batch(Record& record, const std::vector<std::uint32_t>& pages,
                          const LogFile::ImageSource& source) {
  record.kind = RecordKind::batch;
  record.sequence = tail_->last.sequence + 1;
  check_snapshot(record);
  if (at_rotation()) {
    LogHeader header = log_->header();
    header.first = record.sequence;
    header.state = tail_->last;
    header.batch_chain = tail_->batch_chain;
    header.wal_first = tail_->wal_first;
    return start_log(header, record, pages, source);
  }
  const std::uint64_t end = log_->append(log_end_, record, tail_->last.chain, pages, source);
  if (end == 0) return false;
  log_end_ = end;
  advance_tail(record);
  return true;
}

void Outbox::append_mark(Record& record) {
  record.sequence = tail_->last.sequence;
  record.page_size = tail_->last.page_size;
  record.database_size = tail_->last.database_size;
  record.first_commit = record.last_commit = tail_->last.last_commit;
  check_snapshot(record);
  log_end_ = log_->append(log_end_, record, tail_->last.chain, {}, {});
  advance_tail(record);
}

bool Outbox::begin_generation(Generation generation, const FileIdentity& database, Record& record,
                              const std::vector<std::uint32_t>& pages,
                              const LogFile::ImageSource& source) {
  std::uint64_t last = tail_ ? tail_->last.sequence : 0;
  if (!tail_) {
    for (const std::uint64_t file : files_on_disk()) last = std::max(last, file);
    last = std::max(last, control_.current_log);
    // Nothing tells how many batches a file has that is there, or had that is lost.
    if (last != 0) last += kMostOfAFile;
  }
  record.kind = RecordKind::batch;
  record.sequence = last + 1;
  LogHeader header;
  header.generation = generation;
  header.generation_first = record.sequence;
  header.first = record.sequence;
  header.device = database.device;
  header.inode = database.inode;
  header.state.page_size = record.page_size;
  header.state.chain = header.batch_chain = generation.id;
  header.state.source.salt = record.source.salt;
  header.wal_first = record.sequence;
  return start_log(header, record, pages, source);
}

bool Outbox::start_log(const LogHeader& header, Record& record,
                       const std::vector<std::uint32_t>& pages,
                       const LogFile::ImageSource& source) {
  if (!is_outbox(place_.directory, lock_inode_)) throw outbox_deleted(place_.directory);
  const std::string path = log_path(header.first);
  // Behind the current one: what a process left that died while it began the file, or a machine
  // that lost the current one's end. Behind a later one they would pass for this outbox's.
  for (const std::uint64_t file : files_on_disk()) {
    if (file > control_.current_log || file == header.first) ::unlink(log_path(file).c_str());
  }
  LogFile log = LogFile::create(path, header, place_.first_mode());
  place_.own(log.fd(), place_.file_mode);
  try {
    const std::uint64_t end =
        log.append(LogFile::kHeaderSize, record, header.state.chain, pages, source);
    if (end == 0) {
      ::unlink(path.c_str());
      return false;
    }
    Control control = control_;
    control.current_log = header.first;
    control.boot = boot_;
    set_control(control);
    log_ = std::move(log);
    log_end_ = end;
    tail_ = tail_before(header);
    advance_tail(record);
    return true;
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
}

void Outbox::end_generation(Generation generation) {
  write_control(&generation.id, sizeof generation.id, ended_place(generation));
}

bool Outbox::ended(Generation generation) const {
  Generation marked;
  return ::pread(control_fd_.get(), &marked.id, sizeof marked.id, ended_place(generation)) ==
             sizeof marked.id &&
         marked == generation;
}

void Outbox::announce_beginning(std::int64_t time) {
  write_control(&time, sizeof time, kBeginningAt);
}

std::int64_t Outbox::announced_beginning() const {
  std::int64_t time = 0;
  return ::pread(control_fd_.get(), &time, sizeof time, kBeginningAt) == sizeof time ? time : 0;
}

void Outbox::set_behind(std::int64_t since) {
  write_control(&since, sizeof since, kBehindAt);
}

std::int64_t Outbox::behind() const {
  std::int64_t since = 0;
  return ::pread(control_fd_.get(), &since, sizeof since, kBehindAt) == sizeof since ? since : 0;
}

std::vector<std::uint64_t> Outbox::log_files() const {
  auto files = files_on_disk();
  if (control_.current_log != 0) {
    std::erase_if(files, [this](std::uint64_t first) { return first > control_.current_log; });
  }
  return files;
}

std::vector<std::uint64_t> Outbox::files_on_disk() const {
  std::vector<std::uint64_t> files;
  for (const std::string& name : names_in(place_.directory)) {
    if (const auto first = parse_log_file_name(name)) files.push_back(*first);
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string Outbox::log_path(std::uint64_t first_sequence) const {
  return place_.directory + '/' + log_file_name(first_sequence);
}

// Files before the current one are never added: where there was none, none need be looked for.
bool Outbox::only_current() const {
  return only_log_ != 0 && only_log_ == control_.current_log;
}

void Outbox::trim(std::uint64_t sequence) {
  if (only_current()) return;
  const auto files = log_files();
  std::size_t i = 0;
  for (; i + 1 < files.size(); ++i) {
    if (files[i + 1] - 1 > sequence) break;
    ::unlink(log_path(files[i]).c_str());
  }
  if (i < files.size() && files[i] == control_.current_log) only_log_ = files[i];
}

std::uint64_t Outbox::size() const {
  return only_current() && log_ ? log_->size() : size_on_disk();
}

}  // namespace sqlstream::capture
