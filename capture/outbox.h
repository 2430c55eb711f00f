#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fork.h"
#include "capture/file_mark.h"
#include "capture/old_pages.h"
#include "capture/outbox_log.h"

namespace sqlstream::capture {

/// Where the outbox of a database is and whose it is: as SQLite does for -shm, mode, owner and
/// group follow the database file's.
struct OutboxPlace {
  std::string directory;
  mode_t file_mode = 0600;
  uid_t owner = 0;
  gid_t group = 0;
  bool beside_database = false;  ///< the folder is this project's alone

  /// `directory` empty: ".<name>-sqlstream" beside the database. The database file must exist.
  static OutboxPlace of(const std::string& database_path, const std::string& directory);

  /// The folder alone, also of a database that was deleted.
  static std::string directory_of(const std::string& database_path, const std::string& directory);

  /// To create something with: own() opens it to others.
  mode_t first_mode() const { return file_mode & 0700; }

  /// Gives what this process has just created, or may change, that mode, whatever the umask, that
  /// group where it may, and as root that owner. By a descriptor: the owner may put something else
  /// in a name's place meanwhile. Never fails: root may be without these powers in a container, and
  /// then it stays root's. What stays of another group is open to that only as to everybody.
  void own(int fd, mode_t mode) const;

  /// For the folder: whoever may read (write) the database may read (write) in it, and so search
  /// it.
  mode_t folder_mode() const;
};

/// What is shared by all processes beside the log, and not part of any history.
struct Control {
  std::uint64_t current_log = 0;   ///< first sequence of the log file that is appended to
  std::int64_t last_start = 0;     ///< when the last generation was begun, ns
  std::uint32_t quick_starts = 0;  ///< generations begun in quick succession
  std::uint32_t left_wal = 0;      ///< file_tag() when the application left WAL mode; 0: it did not
  std::uint32_t full = 0;          ///< 1: ended for its size; cleared when everything is shipped
  std::uint32_t boot = 0;          ///< boot_id() when the last record was last known to be true
  std::uint64_t snapshot = 0;      ///< the id of a snapshot in place in the making; 0: none
};

/// The newest state of the outbox: the current generation and the last record.
struct Tail {
  Generation generation;
  std::uint64_t generation_first = 0;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  Record last;
  std::uint64_t batch_chain = 0;  ///< the chain value after the last batch
  /// The first batch of the source's current WAL: what came before it is in the database file, so
  /// the file and the batches from here on are the whole state.
  std::uint64_t wal_first = 0;
};

/// False: the outbox whose lock has that inode was deleted, or another one is in its place. What is
/// written, or deleted, by name is then not its own.
bool is_outbox(const std::string& directory, std::uint64_t lock_inode);
/// What is said then.
Error outbox_deleted(const std::string& directory);

/// The local directory where captured data waits. One object per process and database. Not
/// thread-safe: the owner serialises calls; other processes are kept out by the capture lock.
/// System errors are thrown as std::system_error.
class Outbox {
 public:
  /// Creates the directory when it is missing. Throws Error with a clear sentence when it cannot.
  /// A log file that has grown to `rotate_size` bytes is followed by a new one.
  explicit Outbox(OutboxPlace place, std::uint64_t rotate_size = kRotateSize);
  static constexpr std::uint64_t kRotateSize = 16 << 20;

  const std::string& directory() const { return place_.directory; }
  /// Of its `lock`, which is kept open: as long as it is, no other file has that number.
  std::uint64_t lock_inode() const { return lock_inode_; }
  const OutboxPlace& place() const { return place_; }

  /// The capture lock, a kernel lock that goes with this process. Waits up to `limit`.
  class Lock {
   public:
    Lock(Lock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Lock& operator=(Lock&&) = delete;
    ~Lock();

   private:
    friend class Outbox;
    explicit Lock(int fd) : fd_(fd) {}
    int fd_;
  };
  std::optional<Lock> lock(std::chrono::nanoseconds limit);
  /// The same, but no end of waiting while who has it gets on, capturing something large.
  std::optional<Lock> lock_patiently(std::chrono::nanoseconds limit);
  /// Calls `try_for(duration)`, which waits at most that long, until it returns true. False once
  /// that took `limit`, and no log file changed its size in the second half of it. Thread-safe.
  template <class Try>
  bool while_captured(std::chrono::nanoseconds limit, const Try& try_for) const {
    if (try_for(limit / 2)) return true;
    if (limit.count() == 0) return false;
    for (auto before = size_if_known(); !try_for(limit / 2);) {
      const auto now = size_if_known();
      if (now == std::exchange(before, now)) return false;
    }
    return true;
  }

  /// The shipping role, also a kernel lock, held until released or the process ends. False: another
  /// has it.
  bool try_take_role();
  void release_role();
  /// Before it: poke() finds nobody from now on.
  void stop_hearing() { wake_reader_.reset(); }
  bool has_role() const { return role_taken_ && lock_fd_; }

  /// With the capture lock held: sees what others appended, cuts a torn tail. Afterwards tail() is
  /// the newest state; empty when there is no generation yet. It has no file identity that was
  /// taken before the machine was last started: after a power failure, content that was synced can
  /// be beside older times.
  void refresh();
  const std::optional<Tail>& tail() const { return tail_; }
  Control control() const { return control_; }
  void set_control(const Control& control);
  /// The last record was found true since the machine was started. With the capture lock held.
  void note_proven();

  /// What is known of the database file beneath. With the capture lock held, after refresh(); what
  /// is noted is one write. Best effort: what cannot be noted is not known later.
  const FileNote& file_note() const { return file_note_; }
  void set_file_note(const FileNote& note) noexcept;

  /// Begins a snapshot in place: an image of the database at tail(), of whose pages whoever
  /// checkpoints saves what it overwrites, from now on. Empty while another one is in the making.
  /// With the capture lock held, after refresh(); some generation must go on.
  std::optional<OldPages> begin_snapshot();
  /// It was given up, or it is done. With the capture lock held, after refresh().
  void end_snapshot();

  /// Appends a batch of the current generation. False when `source` gave it up. Rotates files.
  bool append_batch(Record& record, const std::vector<std::uint32_t>& pages,
                    const LogFile::ImageSource& source);
  /// True when the next batch begins a new log file.
  bool at_rotation() const;
  /// The first sequence of the log file that is appended to.
  std::uint64_t current_log() const { return control_.current_log; }
  /// Appends a record without pages.
  void append_mark(Record& record);
  /// Begins `generation` with its first batch.
  bool begin_generation(Generation generation, const FileIdentity& database, Record& record,
                        const std::vector<std::uint32_t>& pages,
                        const LogFile::ImageSource& source);

  /// The mark "generation ended", written and read without any lock: a stopped holder of the
  /// capture lock must not hold back those who give its generation up.
  void end_generation(Generation generation);
  bool ended(Generation generation) const;
  /// Says, with the capture lock held, that a generation is about to begin, before what it begins
  /// with is looked at: who found the lock held, and waits no more, now has a reason to.
  void announce_beginning(std::int64_t time);
  /// The last one announced; 0: none. Read without any lock.
  std::int64_t announced_beginning() const;
  /// Since when commits are not waited for as they should be (ns; 0: they are), for those who look
  /// from outside. Written and read without any lock, too.
  void set_behind(std::int64_t since);
  std::int64_t behind() const;
  /// True when the tail's generation is one that goes on.
  bool generation_alive() const { return tail_ && !ended(tail_->generation); }

  /// Log files, ascending; the last one is the current. Without the one that a process began and
  /// died: nothing in it counts.
  std::vector<std::uint64_t> log_files() const;
  std::string log_path(std::uint64_t first_sequence) const;
  /// Deletes log files all of whose batches are <= `sequence`, never the current one.
  void trim(std::uint64_t sequence);
  /// Bytes in log files.
  std::uint64_t size() const;

  /// Wakes the process that ships, with one of these bytes, if it is not this one. False: there is
  /// none, or it has no ear for it yet, or no longer, or no descriptor is to be had; not where the
  /// pipe is missing, or may not be used.
  static constexpr char kCaptured = 0;    ///< there is something new
  static constexpr char kShipAtOnce = 1;  ///< … and a commit waits for it
  bool poke(char wake = kCaptured);
  /// For the process that ships: the descriptor that becomes readable when poked.
  int wake_reader() const { return wake_reader_.get(); }
  /// For the others: an own descriptor (the caller's to close) that reports an error condition when
  /// the shipping process is gone. -1 when none is shipping.
  int watch_role() const;

 private:
  void write_control(const void* from, std::size_t size, off_t at) const;
  void read_control();
  bool only_current() const;
  void adopt_log(std::uint64_t first_sequence);
  void advance_tail(const Record& record);
  void check_snapshot(const Record& next);
  bool start_log(const LogHeader& header, Record& record, const std::vector<std::uint32_t>& pages,
                 const LogFile::ImageSource& source);
  std::uint64_t size_on_disk() const;
  std::vector<std::uint64_t> files_on_disk() const;
  static constexpr std::uint64_t kMostOfAFile = 1ULL << 32;  // batches
  std::uint64_t size_if_known() const noexcept;
  void make_folder() const;
  void follow_database() const;
  void make_wake() const;
  int open_file(const char* name, int flags) const;
  void open_closed_by_fork(ForkClosedFd& fd, const char* name, int flags) const;

  OutboxPlace place_;
  std::uint64_t rotate_size_;
  std::uint32_t boot_ = boot_id();
  ForkClosedFd lock_fd_;
  std::uint64_t lock_inode_ = 0;
  bool role_taken_ = false;
  ForkClosedFd wake_reader_;
  ForkClosedFd wake_writer_;
  UniqueFd control_fd_;
  Control control_;
  FileNote file_note_;
  std::optional<LogFile> log_;
  std::uint64_t only_log_ = 0;  ///< a current one before which there is no other; 0: not known
  std::uint64_t log_end_ = 0;
  std::optional<Tail> tail_;
};

}  // namespace sqlstream::capture
