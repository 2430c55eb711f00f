#include "store/file_store.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <dirent.h>
#include <fcntl.h>
#include <mutex>
#include <set>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <variant>

#include "base/unique_fd.h"
#include "store/worker.h"

namespace sqlstream {
namespace {

// Files being written begin with this; no key does, and listings leave them out.
constexpr std::string_view kTemporary = ".tmp-";

std::string error_text(int error) {
  return std::generic_category().message(error);
}

[[noreturn]] void fail(int error, const std::string& action, const std::string& path) {
  const std::string what = "cannot " + action + " " + path + ": " + error_text(error);
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      throw StoreError(StoreError::Kind::no_space,
                       what + "; free space there, or choose another replica path");
    case EACCES:
    case EPERM:
    case EROFS:
      throw StoreError(StoreError::Kind::denied,
                       what + "; give this user the permission, or choose another replica path");
    case ENOENT:
      throw StoreError(StoreError::Kind::not_found, what);
    case EIO:
    case ESTALE:
    case ETIMEDOUT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      throw StoreError(StoreError::Kind::unavailable, what + cure(error, ""));
    default:
      throw StoreError(StoreError::Kind::rejected, what);
  }
}

[[noreturn]] void refuse_link(const std::string& folder) {
  throw StoreError(StoreError::Kind::rejected,
                   "cannot use folder " + folder +
                       ": a part of it is a symbolic link, which is not followed inside a replica; "
                       "put the folder itself there, or let the replica's own path be the link");
}

/// A key is made of plain names: nothing that leaves the root or hides as a temporary file.
void check_key(const std::string& root, std::string_view key) {
  std::string_view rest = key;
  while (true) {
    const std::size_t slash = rest.find('/');
    const std::string_view name = rest.substr(0, slash);
    if (name.empty() || name == "." || name == ".." || name.starts_with(kTemporary) ||
        name.find('\0') != std::string_view::npos) {
      throw StoreError(StoreError::Kind::rejected,
                       "\"" + std::string(key) + "\" cannot be an object's name in " + root);
    }
    if (slash == std::string_view::npos) return;
    rest.remove_prefix(slash + 1);
  }
}

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

void sync_folder(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) fail(errno, "open folder", path);
  // Some network file systems know no fsync of folders; they write through anyway.
  if (::fsync(fd.get()) != 0 && errno != EINVAL) fail(errno, "sync folder", path);
}

Time to_time(const timespec& time) {
  return Time(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
}

Time modified(const struct stat& info) {
  return to_time(info.st_mtim);
}

// mtime is what the writer's clock said; ctime is the file system's, but that of a copy is new.
Time stored(const struct stat& info) {
  return std::min(modified(info), to_time(info.st_ctim));
}

timespec to_timespec(Time time) {
  const auto since = time.time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since);
  return {static_cast<time_t>(seconds.count()), static_cast<long>((since - seconds).count())};
}

bool is_link(int folder, const std::string& name) {
  struct stat info {};
  return ::fstatat(folder, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode);
}

/// Opens what `key` names below `root` without following a link: whoever can write to a replica is
/// not to lead its reader elsewhere. On failure errno tells; ELOOP: there is a link.
UniqueFd open_below(const std::string& root, std::string_view key, int flags) {
  UniqueFd fd(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  while (fd) {
    const std::size_t slash = key.find('/');
    const std::string name(key.substr(0, slash));
    const bool last = slash == std::string_view::npos;
    const int how = last ? flags : O_PATH | O_DIRECTORY;
    UniqueFd next(::openat(fd.get(), name.c_str(), how | O_NOFOLLOW | O_CLOEXEC));
    if (!next && errno == ENOTDIR) errno = is_link(fd.get(), name) ? ELOOP : ENOTDIR;
    fd = std::move(next);
    if (last) break;
    key.remove_prefix(slash + 1);
  }
  return fd;
}

struct Entry {
  std::string name;  // folders end in '/', so that sorting entries sorts their keys
  std::uint64_t size = 0;
  Time modified{};
  Time stored{};
  bool is_folder() const { return name.back() == '/'; }
};

using Folder = std::unique_ptr<DIR, int (*)(DIR*)>;

/// The next name that can be an object's or a folder's; null at the end. `path`: for the error.
const char* next_name(DIR* folder, const std::string& path) {
  while (true) {
    errno = 0;
    // Each DIR belongs to one call alone, for which readdir is thread-safe in glibc.
    const dirent* found = ::readdir(folder);  // NOLINT(concurrency-mt-unsafe)
    if (!found) {
      if (errno != 0) fail(errno, "list folder", path);
      return nullptr;
    }
    const std::string_view name = found->d_name;
    if (name != "." && name != ".." && !name.starts_with(kTemporary)) return found->d_name;
  }
}

/// The entries that can be (or hold) objects, by key; a folder that is not there has none. Links
/// are neither, and one on the way to the folder is an error. `base`: the folder's key, empty or
/// ending in '/'. Of objects that are put in the order of their keys meanwhile, it has none without
/// those before it.
std::vector<Entry> read_folder(const std::string& root, const std::string& base) {
  const std::string path = root + '/' + base;
  if (path.size() >= PATH_MAX) fail(ENAMETOOLONG, "list folder", path);
  UniqueFd fd = open_below(root, base + '.', O_RDONLY | O_DIRECTORY);
  const Folder folder(fd ? ::fdopendir(fd.get()) : nullptr, &::closedir);
  if (!folder) {
    if (errno == ENOENT || errno == ENOTDIR) return {};
    if (errno == ELOOP) refuse_link(path);
    fail(errno, "list folder", path);
  }
  (void)fd.release();  // the DIR's now
  // Reading a folder may miss what is put there meanwhile, and find what is put after that. All up
  // to the last name that a first reading finds is there before the second one.
  std::string last;
  while (const char* found = next_name(folder.get(), path)) {
    if (last < found) last = found;
  }
  ::rewinddir(folder.get());
  std::vector<Entry> entries;
  while (const char* found = next_name(folder.get(), path)) {
    const std::string_view name = found;
    if (name > last) continue;
    struct stat info {};
    if (::fstatat(::dirfd(folder.get()), found, &info, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) continue;  // deleted meanwhile
      fail(errno, "read the attributes of", path + std::string(name));
    }
    if (S_ISDIR(info.st_mode)) {
      entries.push_back({std::string(name) + "/"});
    } else if (S_ISREG(info.st_mode)) {
      entries.push_back({std::string(name), static_cast<std::uint64_t>(info.st_size),
                         modified(info), stored(info)});
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return entries;
}

}  // namespace

/// The blocking calls. Thread-safe. Shared with the uploads.
class FileStore::Files {
 public:
  Files(std::string root, Worker& w) : worker(w), root_(std::move(root)) {}

  Worker& worker;

  /// A file that is not yet under its name. Unlinked unless published.
  class Pending {
   public:
    Pending() = default;
    Pending(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
    Pending(Pending&& other) noexcept
        : fd_(std::move(other.fd_)), path_(std::exchange(other.path_, {})) {}
    Pending& operator=(Pending&& other) noexcept {
      std::swap(fd_, other.fd_);
      std::swap(path_, other.path_);
      return *this;
    }
    Pending(const Pending&) = delete;
    Pending& operator=(const Pending&) = delete;
    ~Pending() {
      if (!path_.empty()) ::unlink(path_.c_str());
    }
    int fd() const { return fd_.get(); }
    const std::string& path() const { return path_; }
    void published() { path_.clear(); }

   private:
    UniqueFd fd_;
    std::string path_;
  };

  Pending create(const std::string& key) {
    check_key(root_, key);
    static std::atomic<std::uint64_t> counter{0};
    const std::string folder = parent_of(path_of(key));
    // The time keeps names apart from those of a dead process that had the same pid.
    char name[80];
    std::snprintf(name, sizeof name, "/%s%d-%llx-%llx", kTemporary.data(),
                  static_cast<int>(::getpid()),
                  static_cast<unsigned long long>(now().time_since_epoch().count()),
                  static_cast<unsigned long long>(++counter));
    const std::string path = folder + name;
    // Another process may remove the folder as empty between our making and using it.
    for (int attempt = 0;; ++attempt) {
      make_durable_folder(folder);
      UniqueFd fd(
          above_standard(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)));
      if (fd) {
        Pending pending(std::move(fd), path);
        ::fchmod(pending.fd(), (root_mode() & 0644) | 0600);
        return pending;
      }
      if (errno != ENOENT || attempt == 10) fail(errno, "create a file in folder", folder);
      forget_folder(folder);
    }
  }

  static void append(const Pending& pending, ByteView data) {
    while (!data.empty()) {
      const ssize_t n = ::write(pending.fd(), data.data(), data.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail(errno, "write a file in folder", parent_of(pending.path()));
      data = data.subspan(static_cast<std::size_t>(n));
    }
  }

  void publish(Pending& pending, const std::string& key, const PutOptions& options) const {
    if (options.modified) {
      const timespec times[2] = {{0, UTIME_OMIT}, to_timespec(*options.modified)};
      if (::futimens(pending.fd(), times) != 0) fail(errno, "set the time of", pending.path());
    }
    if (::fsync(pending.fd()) != 0) fail(errno, "sync", pending.path());
    const std::string path = path_of(key);
    if (options.if_absent) {
      place_if_absent(pending, path, key);
    } else if (::rename(pending.path().c_str(), path.c_str()) == 0) {
      pending.published();
    } else {
      fail(errno, "rename a file to", path);
    }
    sync_folder(parent_of(path));
  }

  Bytes read(const std::string& key, const std::optional<ByteRange>& range) const {
    check_key(root_, key);
    const std::string path = path_of(key);
    // Non-blocking: a FIFO in an object's place has nothing to wait for.
    const UniqueFd fd = open_below(root_, key, O_RDONLY | O_NONBLOCK);
    struct stat info {};
    if (!fd) {
      const int error = errno;
      if (error == ENOENT && ::stat(root_.c_str(), &info) != 0 && errno == ENOENT)
        throw StoreError(StoreError::Kind::no_bucket,
                         "there is no folder " + root_ + "; correct the replica URL");
      fail(error == ENOTDIR || error == ELOOP ? ENOENT : error, "open", path);
    }
    if (::fstat(fd.get(), &info) != 0) fail(errno, "read the attributes of", path);
    if (!S_ISREG(info.st_mode)) fail(ENOENT, "open", path);
    const auto size = static_cast<std::uint64_t>(info.st_size);
    const std::uint64_t first = range ? std::min(range->first, size) : 0;
    Bytes data(range ? std::min(range->size, size - first) : size);
    std::size_t done = 0;
    while (done < data.size()) {
      const ssize_t n = ::pread(fd.get(), data.data() + done, data.size() - done,
                                static_cast<off_t>(first + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail(errno, "read", path);
      if (n == 0) break;
      done += static_cast<std::size_t>(n);
    }
    data.resize(done);
    return data;
  }

  Listing list(const ListQuery& query) const {
    Listing listing;
    // Nothing was ever put into a folder that is missing; a file in its place hides what was.
    struct stat info {};
    if (::stat(root_.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) {
      fail(ENOTDIR, "list folder", root_);
    }
    // The walk begins in the deepest folder that the prefix names whole.
    const std::size_t slash = query.prefix.rfind('/');
    const std::string base =
        slash == std::string::npos ? std::string() : query.prefix.substr(0, slash + 1);
    if (!base.empty()) check_key(root_, std::string_view(base).substr(0, base.size() - 1));
    walk(base, query, listing);
    return listing;
  }

  void remove(const std::vector<std::string>& keys) {
    std::set<std::string> folders;
    for (const std::string& key : keys) {
      check_key(root_, key);
      const std::string path = path_of(key);
      if (::unlink(path.c_str()) == 0) {
        folders.insert(parent_of(path));
      } else if (errno != ENOENT && errno != ENOTDIR) {
        fail(errno, "delete", path);
      }
    }
    for (const std::string& folder : folders) {
      sync_folder(folder);
      // Object stores have no folders: an empty one goes, and those that it leaves empty.
      for (std::string empty = folder; empty.size() > root_.size(); empty = parent_of(empty)) {
        if (::rmdir(empty.c_str()) != 0) break;
        forget_folder(empty);
      }
    }
  }

  void remove_stale(const std::string& prefix, std::chrono::seconds older_than) const {
    const std::size_t slash = prefix.rfind('/');
    remove_stale_in(slash == std::string::npos ? root_ : root_ + "/" + prefix.substr(0, slash),
                    now() - older_than);
  }

 private:
  std::string path_of(const std::string& key) const { return root_ + "/" + key; }

  void place_if_absent(Pending& pending, const std::string& path, const std::string& key) const {
    const char* from = pending.path().c_str();
    if (::renameat2(AT_FDCWD, from, AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) {
      pending.published();
      return;
    }
    int error = errno;
    if (error == EINVAL || error == ENOSYS) {  // not every file system has the flag
      if (::link(from, path.c_str()) == 0) return;
      error = errno;
    }
    if (error == EEXIST)
      throw StoreError(StoreError::Kind::exists, "object " + key + " is there already in " + root_);
    fail(error, "rename a file to", path);
  }

  mode_t root_mode() const {
    struct stat info {};
    return ::stat(root_.c_str(), &info) == 0 ? info.st_mode : 0700;
  }

  /// Makes the folder and those above it where missing. At the first use by this object also syncs
  /// the names leading to it, since whoever made them may have died before doing so.
  void make_durable_folder(const std::string& folder) {
    {
      const std::lock_guard lock(mutex_);
      if (durable_.contains(folder)) return;
    }
    // What is put behind a link no reader would find.
    if (folder.size() > root_.size() &&
        !open_below(root_, folder.substr(root_.size() + 1), O_PATH | O_DIRECTORY) &&
        errno == ELOOP) {
      refuse_link(folder);
    }
    make_folder(folder);
    for (std::string path = folder; path.size() >= root_.size() && path != "/";
         path = parent_of(path)) {
      sync_folder(parent_of(path));
    }
    const std::lock_guard lock(mutex_);
    if (durable_.size() > 1000) durable_.clear();
    durable_.insert(folder);
  }

  void make_folder(const std::string& folder) const {
    struct stat info {};
    if (::stat(folder.c_str(), &info) == 0) {
      if (!S_ISDIR(info.st_mode)) fail(ENOTDIR, "use folder", folder);
      return;
    }
    if (errno != ENOENT) fail(errno, "use folder", folder);
    const std::string parent = parent_of(folder);
    make_folder(parent);
    const bool inside = folder.size() > root_.size();
    const mode_t mode = inside ? (root_mode() & 0775) | 0700 : 0700;
    if (::mkdir(folder.c_str(), mode) == 0) {
      ::chmod(folder.c_str(), mode);  // whatever the host's umask
      if (!inside) sync_folder(parent);
    } else if (errno != EEXIST) {
      fail(errno == ENOENT ? EAGAIN : errno, "create folder", folder);
    }
  }

  void forget_folder(const std::string& folder) {
    const std::lock_guard lock(mutex_);
    std::erase_if(durable_, [&](const std::string& path) { return path.starts_with(folder); });
  }

  static bool full(const ListQuery& query, const Listing& listing) {
    return query.limit != 0 && listing.objects.size() + listing.folders.size() >= query.limit;
  }

  /// `base`: a folder's key, empty or ending in '/'.
  void walk(const std::string& base, const ListQuery& query, Listing& listing) const {
    for (Entry& entry : read_folder(root_, base)) {
      if (full(query, listing)) return;
      std::string key = base + entry.name;
      if (!entry.is_folder()) {
        if (key.starts_with(query.prefix) && key > query.start_after)
          listing.objects.push_back({std::move(key), entry.size, entry.modified, entry.stored});
        continue;
      }
      // A folder matters if its keys can have the prefix and lie behind start_after.
      const bool within = key.starts_with(query.prefix);
      if (!within && !query.prefix.starts_with(key)) continue;
      if (key < query.start_after && !query.start_after.starts_with(key)) continue;
      if (query.folders && within && key.size() > query.prefix.size()) {
        const ListQuery any{.prefix = key, .start_after = query.start_after, .limit = 1};
        Listing inside;
        walk(key, any, inside);
        if (!inside.objects.empty()) listing.folders.push_back(std::move(key));
      } else {
        walk(key, query, listing);
      }
    }
  }

  static void remove_stale_in(const std::string& path, Time before) {
    const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), &::closedir);
    if (!folder) return;
    // Each DIR belongs to this call alone, for which readdir is thread-safe in glibc.
    while (const dirent* found = ::readdir(folder.get())) {  // NOLINT(concurrency-mt-unsafe)
      const std::string_view name = found->d_name;
      if (name == "." || name == "..") continue;
      struct stat info {};
      const int fd = ::dirfd(folder.get());
      if (::fstatat(fd, found->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
      if (S_ISDIR(info.st_mode)) {
        remove_stale_in(path + "/" + std::string(name), before);
      } else if (name.starts_with(kTemporary) && modified(info) < before) {
        ::unlinkat(fd, found->d_name, 0);
      }
    }
  }

  const std::string root_;
  std::mutex mutex_;
  std::set<std::string> durable_;  // folders whose names are known to be on disk
};

class FileStore::FileUpload : public Upload {
 public:
  FileUpload(std::shared_ptr<Files> files, Files::Pending pending, std::string key,
             PutOptions options)
      : files_(std::move(files)),
        pending_(std::make_shared<Files::Pending>(std::move(pending))),
        key_(std::move(key)),
        options_(options) {}

  asio::awaitable<void> write(Bytes data) override {
    auto call = [pending = pending_, data = std::move(data)] {
      Files::append(*pending, data);
      return std::monostate();
    };
    co_await files_->worker.run(std::move(call));
  }

  asio::awaitable<void> finish() override {
    auto call = [files = files_, pending = pending_, key = key_, options = options_] {
      files->publish(*pending, key, options);
      return std::monostate();
    };
    co_await files_->worker.run(std::move(call));
  }

 private:
  std::shared_ptr<Files> files_;
  std::shared_ptr<Files::Pending> pending_;  // a call that goes on keeps it
  std::string key_;
  PutOptions options_;
};

FileStore::FileStore(const StoreSettings& settings, const asio::any_io_executor& executor)
    : url_(settings.url()) {
  std::string root = settings.path;
  while (root.size() > 1 && root.back() == '/') root.pop_back();
  if (root.empty() || root[0] != '/' || root == "/")
    throw Error("\"" + url_ + "\" does not name a folder; a file replica is file:///absolute/path");
  files_ = std::make_shared<Files>(std::move(root), Worker::of(executor));
}

FileStore::~FileStore() = default;

asio::awaitable<void> FileStore::put(std::string key, Bytes body, PutOptions options) {
  auto call = [files = files_, key = std::move(key), body = std::move(body), options] {
    Files::Pending pending = files->create(key);
    Files::append(pending, body);
    files->publish(pending, key, options);
    return std::monostate();
  };
  co_await files_->worker.run(std::move(call));
}

asio::awaitable<std::unique_ptr<Upload>> FileStore::start_upload(std::string key,
                                                                 std::uint64_t size_hint,
                                                                 PutOptions options) {
  (void)size_hint;
  auto call = [files = files_, key] { return files->create(key); };
  Files::Pending pending = co_await files_->worker.run(std::move(call));
  co_return std::make_unique<FileUpload>(files_, std::move(pending), std::move(key), options);
}

asio::awaitable<Bytes> FileStore::get(std::string key, std::optional<ByteRange> range) {
  auto call = [files = files_, key = std::move(key), range] { return files->read(key, range); };
  co_return co_await files_->worker.run(std::move(call));
}

asio::awaitable<Listing> FileStore::list(ListQuery query) {
  auto call = [files = files_, query = std::move(query)] { return files->list(query); };
  co_return co_await files_->worker.run(std::move(call));
}

asio::awaitable<void> FileStore::remove(std::vector<std::string> keys) {
  auto call = [files = files_, keys = std::move(keys)] {
    files->remove(keys);
    return std::monostate();
  };
  co_await files_->worker.run(std::move(call));
}

asio::awaitable<void> FileStore::abort_stale_uploads(std::string prefix,
                                                     std::chrono::seconds older_than) {
  auto call = [files = files_, prefix = std::move(prefix), older_than] {
    files->remove_stale(prefix, older_than);
    return std::monostate();
  };
  co_await files_->worker.run(std::move(call));
}

}  // namespace sqlstream
