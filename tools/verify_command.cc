#include "tools/verify_command.h"

#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <random>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "capture/outbox.h"
#include "format/wal.h"
#include "restore/plan.h"
#include "restore/restore.h"
#include "shipper/database.h"
#include "shipper/replica_note.h"
#include "tools/progress.h"
#include "tools/session.h"
#include "tools/shipping.h"
#include "tools/source.h"
#include "tools/source_pages.h"

namespace sqlstream::tools {
namespace {

constexpr int kComparisons = 10;
constexpr int kUndisturbed = 4;  // of these, without holding others back

struct Wanted {
  bool write = true;
  bool full = false;
  std::chrono::nanoseconds limit{};
};

// The row that tells this verification from all others.
struct Mark {
  std::string token;
  std::int64_t time = 0;
};

std::string random_token() {
  std::random_device source;
  char text[20];
  std::snprintf(text, sizeof text, "%08x%08x", source(), source());
  return text;
}

Mark write_mark(SqlConnection& db) {
  const Mark mark{random_token(), now().time_since_epoch().count()};
  db.run(
      "CREATE TABLE IF NOT EXISTS _sqlstream_verification"
      "(id INTEGER PRIMARY KEY, token TEXT NOT NULL, time INTEGER NOT NULL)");
  db.run(
      "INSERT INTO _sqlstream_verification VALUES (1, ?1, CAST(?2 AS INTEGER)) "
      "ON CONFLICT(id) DO UPDATE SET token = excluded.token, time = excluded.time",
      {mark.token, std::to_string(mark.time)});
  return mark;
}

// Nobody else writes while one of these lives. Waits for who writes now.
class WriteLock {
 public:
  explicit WriteLock(const std::string& path) : db_(open_replicated(path)) {
    db_.run("BEGIN IMMEDIATE");
  }
  WriteLock(const WriteLock&) = delete;
  WriteLock& operator=(const WriteLock&) = delete;
  ~WriteLock() { sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr); }

 private:
  SqlConnection db_;
};

// A restored database, open: its file needs its name no more.
class Restored {
 public:
  explicit Restored(const std::string& file)
      : fd_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)),
        db_("file:" + escaped(file) + "?mode=ro&immutable=1",
            SQLITE_OPEN_READONLY | SQLITE_OPEN_URI) {}

  void check_mark(const Mark& mark) {
    const auto rows = db_.run("SELECT token, time FROM _sqlstream_verification WHERE id = 1");
    if (rows.empty()) throw Error("the row that was written is not in it");
    // Another verification may have written since.
    if (rows[0][0] != mark.token && std::stoll(rows[0][1]) <= mark.time) {
      throw Error("it has an older state: the row that was written is not in it");
    }
  }

  void check_integrity() {
    const std::string said = db_.value("PRAGMA integrity_check");
    if (said != "ok") throw Error("the integrity check of what was restored says: " + said);
  }

  // The first page that is not as in the source; 0: none.
  std::uint32_t first_difference(const SourcePages& source) const {
    const std::uint32_t size = source.page_size();
    std::vector<std::uint8_t> ours(size);
    std::vector<std::uint8_t> theirs(size);
    for (std::uint32_t page = 1; page <= source.count(); ++page) {
      if (page == wal::lock_byte_page(size)) continue;
      source.read(page, theirs);
      const auto offset = static_cast<off_t>(page - 1) * static_cast<off_t>(size);
      const ssize_t n = ::pread(fd_.get(), ours.data(), size, offset);
      if (n != static_cast<ssize_t>(size) || ours != theirs) return page;
    }
    const off_t end = ::lseek(fd_.get(), 0, SEEK_END);
    return end == static_cast<off_t>(source.count()) * static_cast<off_t>(size)
               ? 0
               : source.count() + 1;
  }

 private:
  static std::string escaped(const std::string& path) {
    std::string result;
    for (const char c : path) {
      if (c == '%' || c == '?' || c == '#') {
        char code[4];
        std::snprintf(code, sizeof code, "%%%02x", static_cast<unsigned char>(c));
        result += code;
      } else {
        result += c;
      }
    }
    return result;
  }

  UniqueFd fd_;
  SqlConnection db_;
};

// Verifies one database's replicas.
class Verification {
 public:
  Verification(const DatabaseSettings& settings, const Wanted& wanted)
      : settings_(settings), wanted_(wanted) {}

  // Throws Error.
  void prepare() {
    if (wanted_.write && ::access(settings_.path.c_str(), W_OK) != 0 && errno != ENOENT) {
      throw Error("this user may not write it; verify as one who may, or with -no-write");
    }
    if (wanted_.write || wanted_.full) db_.emplace(open_replicated(settings_.path));
    if (wanted_.write) mark_ = write_mark(*db_);
    if (db_) wait_until_shipped(*db_, settings_.path, wanted_.limit);
  }

  // Throws Error.
  RestoreResult verify(std::size_t number) {
    const auto note = note_of(number);
    const auto shipped_before = shipped_generation(note);
    const RestoreResult result = wanted_.full ? compare(number) : check(number, {}).result;
    // What was compared is a generation that was named; a restore takes the newest.
    const Generation taken = wanted_.full ? newest_generation(number) : result.generation;
    const auto shipped = shipped_generation(note_of(number));  // a new one may have begun meanwhile
    if (shipped && taken != shipped && taken != shipped_before) {
      throw Error("a restore takes generation " + taken.str() + ", and the database ships " +
                  shipped->str() +
                  "; if another database replicates there, give each a replica of its own");
    }
    refuse_older(result, note);
    return result;
  }

 private:
  struct Checked {
    RestoreResult result;
    std::unique_ptr<Restored> file;
  };

  std::optional<ReplicaNote> note_of(std::size_t number) const {
    const auto outbox = capture::OutboxPlace::directory_of(settings_.path, settings_.outbox_dir);
    return load_replica_note(replica_note_path(outbox, settings_.replicas[number].store.place()));
  }

  // That of the outbox, as far as it came to be in the replica. Empty: not known.
  static std::optional<Generation> shipped_generation(const std::optional<ReplicaNote>& note) {
    if (!note || !note->end) return std::nullopt;
    return note->end->generation;
  }

  // What was in the replica before must be there still. Of a transaction that is there in part, the
  // part is not restored.
  static void refuse_older(const RestoreResult& result, const std::optional<ReplicaNote>& before) {
    if (!before || !before->end || !before->end->last || before->end->open_batch != 0) return;
    const ReplicaEnd& end = *before->end;
    if (result.generation != end.generation || result.position > *end.last) return;
    throw Error("it has an older state: it ends at " +
                describe_position(result.generation, result.position) + ", but the segment at " +
                describe_position(end.generation, *end.last) + " was written, too");
  }

  Generation newest_generation(std::size_t number) const {
    const RestoreOptions any;
    RestoreTarget target;
    with_store(settings_.replicas[number].store,
               [&](Store& store, asio::thread_pool&) -> asio::awaitable<void> {
                 target = co_await find_target(store, any);
               });
    return target.generation;
  }

  Checked check(std::size_t number, RestoreOptions options) {
    const ReplicaSettings& replica = settings_.replicas[number];
    options.output = output();
    options.temporary = true;
    Checked checked;
    ProgressDisplay display("restoring replica " + replica.name + " of " + settings_.path);
    with_store(
        replica.store, [&](Store& store, asio::thread_pool& workers) -> asio::awaitable<void> {
          checked.result =
              co_await restore(store, options, workers,
                               [&](const RestoreProgress& progress) { display.show(progress); });
        });
    display.clear();
    checked.file = std::make_unique<Restored>(checked.result.output);
    checked.result.temporary.reset();  // whatever happens now, it is gone with this process
    if (mark_) checked.file->check_mark(*mark_);
    checked.file->check_integrity();
    return checked;
  }

  // Restores the position at which the replica has exactly what a read transaction sees. While
  // others write, a batch may go past it: then another transaction is tried, in the end with
  // writers waiting until what it sees is shipped.
  RestoreResult compare(std::size_t number) {
    for (int i = 0; i < kComparisons; ++i) {
      std::optional<WriteLock> lock;
      if (i >= kUndisturbed) lock.emplace(settings_.path);
      const SourcePages source(*db_, settings_.path);
      const auto options = position_of(source, number);
      lock.reset();
      if (!options) continue;
      Checked checked = check(number, *options);
      if (checked.result.position != options->until) {
        throw Error("it ends at " +
                    describe_position(checked.result.generation, checked.result.position) +
                    ", and not at " + describe_position(*options->generation, *options->until) +
                    " as when it was written");
      }
      const std::uint32_t page = checked.file->first_difference(source);
      if (page == 0) return checked.result;
      throw Error("page " + std::to_string(page) + " is not as in the database");
    }
    throw Error(
        "the database was written all the time, so there was no common moment to compare; try "
        "again, or without -full");
  }

  // Where the replica ends with what `source` sees; empty when something was committed since.
  std::optional<RestoreOptions> position_of(const SourcePages& source, std::size_t number) {
    db_->run("SELECT sqlstream_wait(0)");  // captures
    if (!source.is_captured()) return std::nullopt;
    const auto captured = Database::find(settings_.path)->tail();
    wait_until_shipped(*db_, settings_.path, wanted_.limit);
    const auto status = nlohmann::json::parse(db_->value("SELECT sqlstream_status()"));
    const auto& replica = status.at("replicas").at(number);
    if (replica.value("sequence", std::uint64_t{0}) != captured->last.sequence) return std::nullopt;
    RestoreOptions options;
    options.generation = Generation::parse(replica.value("generation", ""));
    options.until = Position{replica.value("index", 0U), replica.value("offset", std::uint64_t{0})};
    return options;
  }

  // The same each time: so what a verification that was killed left behind is found.
  std::string output() const {
    const std::filesystem::path database(settings_.path);
    const char* folder = std::getenv("TMPDIR");
    const auto place =
        folder != nullptr && *folder != 0 ? std::filesystem::path(folder) : database.parent_path();
    return place / ('.' + database.filename().string() + "-verify");
  }

  const DatabaseSettings& settings_;
  const Wanted& wanted_;
  std::optional<SqlConnection> db_;
  std::optional<Mark> mark_;
};

bool failed(const std::string& what, const Error& why) {
  std::fprintf(stderr, "sqlstream: verification failed for %s: %s\n", what.c_str(), why.what());
  return false;
}

bool verify_database(const DatabaseSettings& settings, const Wanted& wanted) {
  Verification verification(settings, wanted);
  try {
    verification.prepare();
  } catch (const Error& error) {
    return failed(settings.path, error);
  }
  bool all = true;
  for (std::size_t i = 0; i < settings.replicas.size(); ++i) {
    const std::string name = settings.path + ", replica " + settings.replicas[i].name;
    try {
      const RestoreResult result = verification.verify(i);
      std::printf("verified %s: %s, as of %s\n", name.c_str(),
                  describe_position(result.generation, result.position).c_str(),
                  format_rfc3339(result.commit_time).c_str());
    } catch (const Error& error) {
      all = failed(name, error);
    }
  }
  return all;
}

std::vector<DatabaseSettings> chosen_databases(const ParsedFlags& flags) {
  if (!flags.on("all")) return {replicated_database(flags, single_argument(flags))};
  refuse_arguments(flags);
  std::vector<DatabaseSettings> databases;
  for (const DatabaseSettings& database : load_config(flags).databases) {
    if (!database.replicas.empty()) databases.push_back(replicated_database(flags, database.path));
  }
  if (databases.empty()) throw Error("the configuration file names no database with a replica");
  return databases;
}

}  // namespace

int verify_command(const ParsedFlags& flags) {
  using namespace std::chrono_literals;
  register_vfs();
  use_config_of(flags);
  const Wanted wanted{!flags.on("no-write"), flags.on("full"),
                      duration_flag(flags, "timeout", 60s)};
  bool all = true;
  for (const DatabaseSettings& database : chosen_databases(flags)) {
    if (!verify_database(database, wanted)) all = false;
  }
  if (!all) give_up_shipping();
  return all ? 0 : 1;
}

}  // namespace sqlstream::tools
