#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <sys/types.h>
#include <vector>

#include "base/unique_fd.h"
#include "capture/source.h"
#include "capture/wal_index.h"

/// What a snapshot that is read from the database file itself needs of those who overwrite the file
/// meanwhile. doc/internals.md, "Snapshots in place", tells why this is enough.
namespace sqlstream::capture {

/// How far checkpoints have come that save what they overwrite.
struct Announcement {
  wal::Salt salt{};
  std::uint32_t frame = 0;  ///< they bring frames up to this one of that WAL into the file
  bool open = false;        ///< one of them has not come to its end

  /// What a checkpoint of the WAL with `salt` has announced.
  std::uint32_t reached(const wal::Salt& of) const { return of == salt ? frame : 0; }
  /// All frames of a WAL whose last one is at `source` are among them.
  bool covers(const SourcePosition& source) const { return source.frame <= reached(source.salt); }
};

/// The file "old-pages" in an outbox: pages of a database as they were when a snapshot began, saved
/// before a checkpoint overwrote them. Sparse. A snapshot during which something went unsaved is
/// void, and the file is removed: the one mark that needs no space.
///
/// One process copies; others save, one at a time (under SQLite's checkpoint lock, or EXCLUSIVE).
/// No lock between copying and saving: a page is saved before it is overwritten, and whoever copies
/// looks for a saved image after it read the page. Errors of the system are thrown as
/// std::system_error.
class OldPages {
 public:
  struct Shape {
    std::uint64_t id = 0;  ///< tells snapshots apart
    std::uint32_t page_size = 0;
    std::uint32_t pages = 0;  ///< of the database, at the snapshot's position
  };
  static constexpr const char* kName = "old-pages";

  /// Replaces what is there. `known`: what is in the file at the snapshot's position.
  static OldPages create(const std::string& directory, mode_t mode, const Shape& shape,
                         const Announcement& known);
  /// Empty when there is none, or one of another snapshot.
  static std::optional<OldPages> open(const std::string& directory, std::uint64_t id);
  /// Makes the snapshot in the making void, or cleans up behind it. Allocates nothing.
  static void remove(const std::string& directory) noexcept;

  const Shape& shape() const { return shape_; }
  int fd() const { return fd_.get(); }
  /// It is removed, or a checkpoint has announced itself and its process died.
  bool is_void() const noexcept;
  /// Of the disk.
  std::uint64_t bytes() const;
  /// Makes it void, since it takes more than it may, and gives back the space at once, whoever has
  /// it open.
  void outgrow(const std::string& directory);
  /// That is why it is void.
  bool outgrown() const;

  // --- For the process that copies.
  /// Pages up to `page` are copied: what was there needs no saving any more.
  void set_copied(std::uint32_t page);
  /// Gives back the space of `count` saved images from `first` on, which are copied. Best effort.
  void discard(std::uint32_t first, std::uint32_t count) noexcept;
  /// For `count` pages from `first` on: not 0 where one is saved.
  std::vector<std::uint8_t> saved(std::uint32_t first, std::uint32_t count) const;
  /// A saved one.
  void read(std::uint32_t page, std::span<std::uint8_t> out) const;

  // --- For those who save.
  std::uint32_t copied() const;
  void save(std::uint32_t page, std::span<const std::uint8_t> image);

  void announce(const Announcement& announcement);
  Announcement announced() const;

 private:
  OldPages(UniqueFd fd, const Shape& shape) : fd_(std::move(fd)), shape_(shape) {}
  std::uint64_t image_at(std::uint32_t page) const;

  UniqueFd fd_;
  Shape shape_;
};

/// Saves pages for the snapshot in the making, if there is one, while one connection checkpoints.
/// Called on the application's thread, by that connection alone. Nothing throws: what cannot be
/// saved makes the snapshot void.
class PageSaver {
 public:
  /// Reads the file as it is, zeros beyond its end; false when that failed.
  using ReadFile = std::function<bool(std::uint64_t offset, std::span<std::uint8_t> out)>;

  explicit PageSaver(std::string directory) : directory_(std::move(directory)) {}

  /// Nobody else begins a checkpoint from now on; before this one has begun. `region0`: the first
  /// mapped region of the wal-index.
  void checkpoint_allowed(const volatile void* region0) noexcept;
  /// Before the checkpoint writes anything, after a capture. `id`: of the snapshot in the making;
  /// 0: there is none. `room`: so many bytes may be taken for it.
  void begin(std::uint64_t id, std::uint64_t room, const volatile void* region0) noexcept;
  bool active() const { return pages_.has_value(); }
  /// Before `size` bytes of the file are overwritten, before it is cut off at `size`.
  void writing(std::uint64_t offset, std::size_t size, const ReadFile& read) noexcept;
  void truncating(std::uint64_t size, const ReadFile& read) noexcept;
  /// Before others may checkpoint: whether it came to its end.
  void end(const volatile void* region0) noexcept;

 private:
  void save(std::uint32_t page, const ReadFile& read);
  bool has_room();
  void give_up(const char* why) noexcept;

  std::string directory_;
  std::optional<OldPages> pages_;
  Announcement mine_;
  std::vector<std::uint8_t> image_;
  std::uint32_t target_ = 0;  // the frame this checkpoint goes up to
  std::uint32_t copied_ = 0;  // as last looked at
  std::uint64_t room_ = 0;
  std::uint64_t taken_ = 0;  // of it, or less: what is copied gives back its space
  // How far others had tried to come when they could begin no checkpoint any more; not known where
  // the wal-index could not be read then.
  std::optional<Announcement> tried_;
};

}  // namespace sqlstream::capture
