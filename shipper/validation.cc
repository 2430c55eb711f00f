#include "shipper/validation.h"

#include <algorithm>
#include <memory>
#include <unistd.h>

#include "base/error.h"
#include "base/folder.h"
#include "base/log.h"
#include "restore/plan.h"
#include "restore/restore.h"
#include "shipper/replicator.h"
#include "store/s3/semaphore.h"

namespace sqlstream {
namespace {

using std::chrono::steady_clock;

constexpr auto kStoreAway = std::chrono::minutes(1);
constexpr int kTries = 2;
constexpr int kBetweenLooks = 10'000;  // of SQLite's steps: some ms
constexpr const char* kFilePrefix = "validation-";

std::string as_uri(const std::string& path) {
  std::string uri = "file:";
  for (const char c : path) {
    if (c == '%') {
      uri += "%25";
    } else if (c == '?') {
      uri += "%3f";
    } else if (c == '#') {
      uri += "%23";
    } else {
      uri += c;
    }
  }
  return uri + "?mode=ro&immutable=1";
}

// A restored database. Its file has no name any more once it is open: whatever happens, it is gone
// with this. Immutable: SQLite takes no lock on it, and makes no file beside it.
class Restored {
 public:
  Restored(const Host& host, const std::string& file) : api_(*host.api) {
    const int opened = api_.open_v2(
        as_uri(file).c_str(), &db_,
        SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_PRIVATECACHE, host.base->zName);
    // Opened already by this, and not only at its first use.
    const bool readable = opened == SQLITE_OK && api_.exec(db_, "PRAGMA schema_version", nullptr,
                                                           nullptr, nullptr) == SQLITE_OK;
    ::unlink(file.c_str());
    if (readable) return;
    const std::string why = api_.errmsg(db_);
    api_.close(db_);
    throw Error("what was restored cannot be opened: " + why);
  }
  ~Restored() { api_.close(db_); }
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;

  // Throws Error with what it finds.
  void check_integrity(std::atomic<bool>& stopped) {
    if (api_.progress_handler != nullptr) {
      api_.progress_handler(
          db_, kBetweenLooks,
          [](void* flag) { return static_cast<std::atomic<bool>*>(flag)->load() ? 1 : 0; },
          &stopped);
    }
    sqlite3_stmt* statement = nullptr;
    int result = api_.prepare_v2(db_, "PRAGMA integrity_check", -1, &statement, nullptr);
    if (result == SQLITE_OK) result = api_.step(statement);
    const unsigned char* text = result == SQLITE_ROW ? api_.column_text(statement, 0) : nullptr;
    const std::string said =
        text != nullptr ? reinterpret_cast<const char*>(text) : api_.errmsg(db_);
    api_.finalize(statement);
    // SQLITE_ERROR: a collation or function that only the application has.
    if (said == "ok" || result == SQLITE_ERROR || stopped.load()) return;
    throw Error("the integrity check of what was restored says: " + said);
  }

 private:
  const sqlite3_api_routines& api_;
  sqlite3* db_ = nullptr;
};

}  // namespace

Validation::Validation(Replicator& replicator)
    : replicator_(replicator), signal_(Engine::get().executor()) {}

void Validation::stop() {
  stopped_.store(true);
  stop_.emit(asio::cancellation_type::terminal);
}

// Also over restarts: the note remembers the last one.
std::optional<Time> Validation::due() const {
  const auto& interval = replicator_.settings().validation_interval;
  // A store that is away gets no further requests, and a program that ends does not wait for one.
  if (!interval || !replicator_.shipping() || replicator_.database().ending()) return std::nullopt;
  auto& last = replicator_.note().validation.last;
  const Time time = now();
  last = last == Time{} ? time : std::min(last, time);
  return last + *interval;
}

asio::awaitable<void> Validation::run() {
  while (!stopped_.load()) {
    const auto wanted = due();
    if (!wanted) {
      co_await signal_.wait();
      continue;
    }
    const auto time = steady_clock::now();
    const auto next = std::max(time + (*wanted - now()), not_before_);
    if (time < next) {
      co_await signal_.wait_until(next);
    } else {
      co_await validate();
    }
  }
}

asio::awaitable<void> Validation::validate() {
  const auto turn = co_await Engine::get().one_at_a_time().acquire();
  const Database::Validating validating(replicator_.database());
  std::string error;
  try {
    // What fails once may have been deleted, after a newer snapshot, while it was read.
    for (int i = 0; i < kTries && (i == 0 || !error.empty()); ++i) error = co_await try_once();
  } catch (const StoreError& e) {
    log::debug(std::string("validation is put off: ") + e.what(),
               {{"db", replicator_.database().path()}});
    not_before_ = steady_clock::now() + kStoreAway;
    co_return;
  } catch (const std::bad_alloc&) {
    not_before_ = steady_clock::now() + kStoreAway;
    co_return;
  }
  if (!stopped_.load()) co_await note(error);
}

// Why it failed; empty: it did not. Throws when the store is away, which says nothing.
asio::awaitable<std::string> Validation::try_once() {
  try {
    co_await check();
    co_return std::string();
  } catch (const StoreError& e) {
    if (e.kind() == StoreError::Kind::unreachable || e.kind() == StoreError::Kind::unavailable) {
      throw;
    }
    co_return e.what();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    if (stopped_.load()) throw;
    co_return e.what();
  }
}

asio::awaitable<void> Validation::check() {
  Database& database = replicator_.database();
  const auto begun = steady_clock::now();
  const auto shipped = replicator_.shipped_until();
  const auto generation = replicator_.shipping();
  RestoreOptions options;
  options.output =
      database.outbox_directory() + '/' + kFilePrefix + std::to_string(replicator_.number());
  options.parallelism = 1;  // shipping goes on meanwhile
  options.quiet = true;
  options.mode = 0600;  // the folder may be open to more than may read the database
  const RestoreResult result =
      co_await restore(replicator_.store(), options, Engine::get().workers(), {});
  co_await on_worker([&] { Restored(database.host(), options.output).check_integrity(stopped_); });
  // Not where another one began meanwhile.
  if (generation && result.generation != *generation && replicator_.shipping() == generation) {
    throw Error("a restore takes generation " + result.generation.str() + ", as of " +
                format_rfc3339(result.commit_time) + ", for the newest, and not generation " +
                generation->str() + ", which is shipped");
  }
  if (shipped && result.commit_time < *shipped) {
    throw Error("it ends at " + describe_position(result.generation, result.position) + ", as of " +
                format_rfc3339(result.commit_time) + ": what was shipped behind that is missing");
  }
  log::debug("replica restores",
             {{"db", database.path()},
              {"replica", replicator_.settings().name},
              {"position", describe_position(result.generation, result.position)},
              {"elapsed", elapsed_since(begun)}});
}

// A line in the log is written when the answer is another one than the last time.
asio::awaitable<void> Validation::note(const std::string& error) {
  ValidationState& state = replicator_.note().validation;
  const std::string& path = replicator_.database().path();
  const std::string& name = replicator_.settings().name;
  const Time time = now();
  if (!error.empty() && state.error.empty()) {
    log::error("verification failed for " + path + ", replica " + name + ": " + error);
    state.error_since = time;
  } else if (error.empty() && (!state.error.empty() || state.verified == Time{})) {
    log::info("replica verified", {{"db", path}, {"replica", name}});
  }
  state.last = time;
  state.error = error;
  if (error.empty()) state.verified = time;
  replicator_.validated();
  co_await replicator_.save_note();
}

void remove_validations(const std::string& outbox) {
  for (const std::string& name : names_in(outbox)) {
    const std::string_view whole = std::string_view(name).substr(name[0] == '.' ? 1 : 0);
    if (whole.starts_with(kFilePrefix)) ::unlink((outbox + '/' + name).c_str());
  }
}

}  // namespace sqlstream
