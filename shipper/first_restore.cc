#include "shipper/first_restore.h"

#include <atomic>
#include <cerrno>
#include <exception>
#include <fcntl.h>
#include <memory>
#include <optional>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include "base/error.h"
#include "base/fork.h"
#include "base/log.h"
#include "base/patience.h"
#include "base/unique_fd.h"
#include "base/wake_call.h"
#include "restore/plan.h"
#include "restore/restore.h"
#include "restore/target_file.h"
#include "shipper/engine.h"

namespace sqlstream {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

constexpr const char* kNoThreads = "there are no threads to be had; open it again later";
constexpr const char* kNoMemory = "there is no memory to restore it with; open it again later";
constexpr auto kLook = std::chrono::milliseconds(20);
constexpr auto kMemoryPatience = std::chrono::seconds(10);

bool exists(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0;
}

// The engine waits for memory as long as there is none. Who opens a database does not.
class MemoryPatience {
 public:
  /// To be asked at short intervals. `progress` changes where there is any.
  template <class Progress>
  void check(const Progress& before, const Progress& progress) {
    const auto time = steady_clock::now();
    if (!memory_awaited() || progress != before) since_ = time;
    if (time - since_ > kMemoryPatience) throw Error(kNoMemory);
  }

 private:
  steady_clock::time_point since_ = steady_clock::now();
};

// A file beside the database that is locked for as long as this lives, and is there no longer. The
// kernel takes the lock with the process; the file it leaves then is taken over.
class RestoreLock {
 public:
  RestoreLock(const std::string& database, nanoseconds patience) {
    const std::size_t name = database.rfind('/') + 1;  // 0 when there is no slash
    file_ = database.substr(0, name) + '.' + database.substr(name) + "-sqlstream-restoring";
    do {
      fd_.open([&] { return above_standard(create_or_open()); });
      if (!fd_) fail("create");
      lock(database, patience);
      touch();
    } while (!is_current());  // its last holder removed it meanwhile
  }
  ~RestoreLock() { ::unlink(file_.c_str()); }
  RestoreLock(const RestoreLock&) = delete;
  RestoreLock& operator=(const RestoreLock&) = delete;

  /// Shows those who wait that the restore goes on. On any thread.
  void touch() const { ::futimens(fd_.get(), nullptr); }

 private:
  int create_or_open() const {
    constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    const int fd = ::open(file_.c_str(), kFlags | O_CREAT | O_EXCL, 0600);
    if (fd < 0) return ::open(file_.c_str(), kFlags | O_CREAT, 0600);
    // What root leaves when it is killed must not keep out who owns the folder.
    struct stat folder {};
    const std::string path = file_.substr(0, file_.rfind('/') + 1) + '.';
    if (::geteuid() == 0 && ::stat(path.c_str(), &folder) == 0 &&
        ::fchown(fd, folder.st_uid, folder.st_gid) != 0) {
      // Root may be without this power in a container.
    }
    return fd;
  }

  [[noreturn]] void fail(const char* doing) const {
    throw Error(std::string("cannot ") + doing + " the lock file " + file_ + ": " +
                std::generic_category().message(errno));
  }

  void lock(const std::string& database, nanoseconds patience) const {
    if (try_lock()) return;
    log::info("waiting for another process that restores the database", {{"db", database}});
    auto touched = last_touch();
    auto since = steady_clock::now();
    MemoryPatience memory;
    while (!try_lock()) {
      std::this_thread::sleep_for(kLook);
      const auto before = std::exchange(touched, last_touch());
      memory.check(before, touched);  // of a restore here that was given up
      if (before != touched) since = steady_clock::now();
      if (steady_clock::now() - since > patience) {
        throw Error("another process has been restoring it without progress for " +
                    std::to_string(std::chrono::ceil<std::chrono::seconds>(patience).count()) +
                    " s: end it (it has " + file_ + " open), and open the database again");
      }
    }
  }

  bool try_lock() const {
    struct flock whole {};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    if (::fcntl(fd_.get(), F_OFD_SETLK, &whole) == 0) return true;
    if (errno != EAGAIN && errno != EACCES && errno != EINTR) fail("lock");
    return false;
  }

  std::pair<time_t, long> last_touch() const {
    struct stat st {};
    ::fstat(fd_.get(), &st);
    return {st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
  }

  bool is_current() const {
    struct stat ours {};
    struct stat there {};
    return ::fstat(fd_.get(), &ours) == 0 && ::stat(file_.c_str(), &there) == 0 &&
           ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
  }

  std::string file_;
  ForkClosedFd fd_;
};

// The one with the latest data; sets options.generation to what was found in it. One that cannot be
// asked, or is damaged, may be that: an error.
asio::awaitable<std::unique_ptr<Store>> choose_store(const std::vector<ReplicaSettings>& replicas,
                                                     RestoreOptions& options) {
  if (replicas.size() == 1) {
    co_return make_store(replicas.front().store, Engine::get().executor());
  }
  std::unique_ptr<Store> best;
  RestoreTarget latest;
  std::string nothing;
  for (const ReplicaSettings& replica : replicas) {
    auto store = make_store(replica.store, Engine::get().executor());
    try {
      const RestoreTarget target = co_await find_target(*store, options);
      if (best != nullptr && !is_newer(target, latest)) continue;
      best = std::move(store);
      latest = target;
    } catch (const NoBackup& error) {
      nothing = error.what();
    }
  }
  if (best == nullptr) throw NoBackup(nothing);
  options.generation = latest.generation;
  co_return best;
}

// Shared by the thread that waits and the engine's, which goes on with it where the other gave up.
struct Restoring {
  Restoring(std::vector<ReplicaSettings> from, const std::string& database, nanoseconds patience)
      : replicas(std::move(from)), output(database), lock(std::in_place, database, patience) {}

  const std::vector<ReplicaSettings> replicas;
  const std::string output;
  std::optional<RestoreLock> lock;
  std::atomic<std::uint64_t> steps{0};
  RestoreResult result;
  std::exception_ptr error;
  WakeCall ended;
  asio::cancellation_signal cancel;  // the engine's
  HandlerRoom begin_room, cancel_room;
};

asio::awaitable<RestoreResult> restore_latest(Restoring& restoring) {
  RestoreOptions options;
  options.output = restoring.output;
  const auto store = co_await choose_store(restoring.replicas, options);
  log::info("restoring the database, which does not exist",
            {{"db", options.output}, {"from", store->url()}});
  co_return co_await restore(*store, options, Engine::get().workers(),
                             [&restoring](const RestoreProgress&) {
                               restoring.lock->touch();
                               ++restoring.steps;
                             });
}

asio::awaitable<void> run(std::shared_ptr<Restoring> restoring) {
  try {
    restoring->result = co_await restore_latest(*restoring);
  } catch (...) {
    restoring->error = std::current_exception();
  }
  restoring->ended.call();
}

// It begins on the engine's thread, which waits for memory: where a coroutine or a promise must be
// given up for want of it, Asio and the standard library end the process.
RestoreResult restore_in_engine(const std::shared_ptr<Restoring>& restoring) {
  Engine& engine = Engine::get();
  engine.post(restoring->begin_room, [&engine, restoring] {
    asio::co_spawn(engine.executor(), run(restoring),
                   asio::bind_cancellation_slot(restoring->cancel.slot(), asio::detached));
  });
  MemoryPatience memory;
  std::uint64_t steps = 0;
  try {
    while (!restoring->ended.wait_until(steady_clock::now() + kLook)) {
      const auto before = std::exchange(steps, restoring->steps.load());
      memory.check(before, steps);
    }
  } catch (...) {
    engine.post(restoring->cancel_room,
                [restoring] { restoring->cancel.emit(asio::cancellation_type::terminal); });
    throw;
  }
  restoring->lock.reset();  // the engine's thread may be about to let go of it, too
  if (restoring->error) std::rethrow_exception(restoring->error);
  return std::move(restoring->result);
}

}  // namespace

void restore_if_missing(const DatabaseSettings& settings, nanoseconds patience) {
  if (exists(settings.path)) return;
  const auto restoring = std::make_shared<Restoring>(
      settings.restore_from ? std::vector{*settings.restore_from} : settings.replicas,
      settings.path, patience);
  if (exists(settings.path)) return;
  if (restoring->replicas.empty())
    throw Error("there is no replica to restore from: name one with restore-from");
  if (!Engine::get().start()) throw Error(kNoThreads);
  try {
    const RestoreResult result = restore_in_engine(restoring);
    log::info("database restored",
              {{"db", result.output},
               {"position", describe_position(result.generation, result.position)},
               {"latest", format_rfc3339(result.commit_time)}});
  } catch (const OutputExists&) {
    // Somebody else has put it there meanwhile.
  } catch (const NoBackup& nothing) {
    log::warn(std::string("a new database begins: ") + nothing.what(), {{"db", settings.path}});
  } catch (const std::system_error& e) {
    if (e.code() != std::errc::resource_unavailable_try_again) throw;
    throw Error(kNoThreads);  // for a store of its own
  }
}

}  // namespace sqlstream
