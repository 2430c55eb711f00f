// Captures of a real SQLite's WAL, and what proves that nothing is missing in between.
//
// The oracle is a replica as a shipper would make it: the database file copied after a generation
// began, and from then on only what the outbox says. A capture that goes on where it must not
// gives a replica that differs from the database.

#include "capture/capturer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>

#include "base/log.h"
#include "capture/outbox.h"
#include "capture/wal_index.h"
#include "support.h"

using namespace sqlstream;
using namespace sqlstream::capture;
using namespace sqlstream::testing;
using namespace std::chrono_literals;

namespace {

/// The outbox and the capturer of one process's lifetime.
struct Session {
  Outbox outbox;
  Capturer capturer;

  Session(const std::string& path, std::uint32_t page_size, std::uint64_t max_size = 0)
      : outbox(OutboxPlace::of(path, "")),
        capturer(
            outbox, path,
            [path, page_size]() -> std::optional<DatabaseShape> {
              const auto size = std::filesystem::file_size(path);
              if (size < 512) return std::nullopt;
              return DatabaseShape{page_size, static_cast<std::uint32_t>(size / page_size)};
            },
            max_size) {
    capturer.session_began();
  }
};

/// What a replica would hold.
class Replica {
 public:
  /// Takes what is new in the outbox, and compares with the database.
  void expect(Outbox& outbox, const Sqlite& db) {
    {
      const auto lock = outbox.lock(1s);
      REQUIRE(lock);
      outbox.refresh();
    }
    REQUIRE(outbox.tail());
    const Tail& tail = *outbox.tail();
    if (generation_ != tail.generation) {
      generation_ = tail.generation;
      applied_ = tail.generation_first - 1;
      image_ = db.file_bytes();
    }
    for (const std::uint64_t first : outbox.log_files()) {
      const auto log = LogFile::open(outbox.log_path(first), false);
      REQUIRE(log);
      if (log->header().generation != generation_) continue;
      std::uint64_t at = LogFile::kHeaderSize;
      std::uint64_t chain = log->header().state.chain;
      while (const auto found = log->read(at, chain, true)) {
        at = found->end;
        chain = found->record.chain;
        if (found->record.kind == RecordKind::batch && found->record.sequence > applied_) {
          apply(*log, *found);
        }
      }
    }
    REQUIRE(applied_ == tail.last.sequence);
    CHECK(same(db.content(), tail.last.page_size));
  }
  Generation generation() const { return generation_; }

 private:
  void apply(const LogFile& log, const LogFile::Found& found) {
    const std::size_t page_size = found.record.page_size;
    const auto list = log.read_pages(found);
    image_.resize(std::max(image_.size(), found.record.database_size * page_size));
    for (std::size_t i = 0; i < list.size(); ++i) {
      REQUIRE(list[i].page <= found.record.database_size);
      log.read_image(found, i, list[i],
                     std::span(image_).subspan((list[i].page - 1) * page_size, page_size));
    }
    image_.resize(found.record.database_size * page_size);
    applied_ = found.record.sequence;
  }

  bool same(const Bytes& content, std::size_t page_size) const {
    if (content.size() != image_.size()) return false;
    for (std::size_t at = 0; at < content.size(); at += page_size) {
      if (std::memcmp(content.data() + at, image_.data() + at, page_size) != 0) {
        MESSAGE("page " << at / page_size + 1 << " differs");
        return false;
      }
    }
    return true;
  }

  Generation generation_;
  std::uint64_t applied_ = 0;
  Bytes image_;
};

/// A database, captured from, with its replica.
struct Captured {
  TempFolder folder;
  std::string path = folder.file("app.db");
  std::uint32_t page_size;
  std::optional<Sqlite> db;
  std::optional<Session> session;
  Replica replica;
  bool recovered = false;  // the wal-index, by the next session's first connection

  explicit Captured(std::uint32_t size = 4096) : page_size(size) {
    open();
    db->run("CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  }

  void open() {
    db.emplace(path, page_size);
    db->run("SELECT count(*) FROM sqlite_schema");  // maps the wal-index
    session.emplace(path, page_size);
  }

  Outcome capture() {
    UniqueFd wal;
    Source source = db->source(wal);
    source.recovered = recovered;
    const Outcome outcome = session->capturer.capture(source, 1s);
    if (outcome == Outcome::captured || outcome == Outcome::up_to_date) recovered = false;
    return outcome;
  }

  /// Captures, and checks that the replica then is what the database is.
  Generation sync() {
    const Outcome outcome = capture();
    INFO(session->capturer.error());
    REQUIRE((outcome == Outcome::captured || outcome == Outcome::up_to_date));
    CHECK(capture() == Outcome::up_to_date);
    replica.expect(session->outbox, *db);
    return replica.generation();
  }

  void insert(int rows = 1) {
    for (int i = 0; i < rows; ++i) db->run("INSERT INTO t(x) VALUES (randomblob(300))");
  }

  /// Every commit captured, everything in the file, EXCLUSIVE held: as the shim's last close.
  void close_cleanly() {
    capture();
    db->run("PRAGMA wal_checkpoint(TRUNCATE)");
    capture();
    db->close();
    session->capturer.note_clean_close();
    db.reset();
    session.reset();
  }

  /// As kill -9: nothing is written any more, the WAL stays.
  void die() {
    const std::string kept = folder.file("kept");
    std::filesystem::create_directory(kept);
    const auto written = std::filesystem::last_write_time(path);
    for (const char* suffix : {"", "-wal"}) {
      std::filesystem::copy_file(path + suffix, kept + "/app.db" + suffix,
                                 std::filesystem::copy_options::overwrite_existing);
    }
    db.reset();
    session.reset();
    recovered = true;
    // The inode stays the database's: its bytes go back into the same file, and its time.
    overwrite(kept + "/app.db", path);
    std::filesystem::last_write_time(path, written);
    std::filesystem::copy_file(kept + "/app.db-wal", path + "-wal",
                               std::filesystem::copy_options::overwrite_existing);
  }

  static void overwrite(const std::string& from, const std::string& to) {
    const UniqueFd in(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
    const UniqueFd out(::open(to.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
    Bytes bytes(std::filesystem::file_size(from));
    REQUIRE(::read(in.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    REQUIRE(::write(out.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
};

void seal_header(std::vector<std::uint32_t>& words) {
  const auto sum =
      wal::checksum({}, {reinterpret_cast<const std::uint8_t*>(words.data()), 40}, false);
  words[10] = sum[0];
  words[11] = sum[1];
  std::copy_n(words.begin(), 12, words.begin() + 12);
}

/// A wal-index header with other frames and salts, as SQLite has it between the reset and the
/// first frame of the new WAL.
std::vector<std::uint32_t> reset_header(const volatile void* region0, const wal::Salt& salt) {
  std::vector<std::uint32_t> words(kRegionSize / 4);
  std::memcpy(words.data(), const_cast<const void*>(region0), kRegionSize);
  words[4] = 0;
  words[8] = __builtin_bswap32(salt[0]);
  words[9] = __builtin_bswap32(salt[1]);
  seal_header(words);
  return words;
}

/// … as a recovery leaves it that found no frame: nothing is counted, and nothing carried over.
std::vector<std::uint32_t> recovered_header(const volatile void* region0, const wal::Salt& salt) {
  auto words = reset_header(region0, salt);
  words[2] = words[6] = words[7] = 0;
  seal_header(words);
  return words;
}

}  // namespace

TEST_CASE("captures go on in one generation through commits and every kind of checkpoint") {
  for (const std::uint32_t page_size : {512U, 4096U, 65536U}) {
    Captured c(page_size);
    const Generation generation = c.sync();
    CHECK(c.capture() == Outcome::up_to_date);
    for (const char* mode : {"PASSIVE", "FULL", "RESTART", "TRUNCATE", "PASSIVE"}) {
      INFO(mode);
      c.insert(3);
      CHECK(c.sync() == generation);
      c.db->run("UPDATE t SET x = randomblob(100); DELETE FROM t WHERE i % 3 = 0");
      // The shim captures before a reset; what is left for the tail is nothing.
      c.capture();
      c.db->run("PRAGMA wal_checkpoint(" + std::string(mode) + ")");
      CHECK(c.sync() == generation);
      c.insert(1);
      CHECK(c.sync() == generation);
    }
    c.db->run("DELETE FROM t; VACUUM");
    CHECK(c.sync() == generation);
    c.insert(20);
    CHECK(c.sync() == generation);
  }
}

TEST_CASE("a commit that rolled back, and an empty database, capture nothing") {
  const TempFolder folder;
  Captured c;
  const Generation generation = c.sync();
  c.db->run("BEGIN; INSERT INTO t(x) VALUES (1); ROLLBACK");
  CHECK(c.capture() == Outcome::up_to_date);
  CHECK(c.sync() == generation);
}

TEST_CASE("without a mapping nothing can be captured") {
  Captured c;
  CHECK(c.session->capturer.capture(Source{}, 1s) == Outcome::try_again);
}

// With pages of 512 bytes: more frames than one region of the wal-index has.
constexpr const char* kTwoRegions =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) "
    "INSERT INTO t(x) SELECT randomblob(400) FROM n";

TEST_CASE("a region that is not mapped here is asked for") {
  Captured c(512);
  c.sync();
  c.db->run(kTwoRegions);
  UniqueFd wal;
  Source source = c.db->source(wal);
  source.map_more = nullptr;
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::busy);
  CHECK(c.capture() == Outcome::captured);
  c.sync();
}

TEST_CASE("frames that are not what the wal-index said are not captured") {
  constexpr std::size_t kFrame = 3000;
  Captured c(512);
  c.sync();
  c.db->run(kTwoRegions);
  UniqueFd wal;
  Source source = c.db->source(wal);
  std::vector<std::uint32_t> words(kRegionSize / 4);
  std::memcpy(words.data(), const_cast<const void*>(source.regions[0]), kRegionSize);
  std::uint32_t& page = words[34 + kFrame - 1];
  // While a capture maps the second region: between its look at the header and that at the frames.
  std::function<void()> meanwhile = [] {};
  const auto map = source.map_more;
  source.regions = {words.data()};
  source.map_more = [&](std::size_t region) {
    meanwhile();
    return map(region);
  };
  bool right = false;
  SUBCASE("nothing changes") {
    right = true;
  }
  SUBCASE("a page number is 0") {
    page = 0;
  }
  SUBCASE("a page number is another's") {
    --page;
  }
  SUBCASE("a frame has other salts") {
    const UniqueFd file(::open((c.path + "-wal").c_str(), O_WRONLY | O_CLOEXEC));
    constexpr std::uint32_t kSalt = 0;
    REQUIRE(::pwrite(file.get(), &kSalt, 4, 32 + (kFrame - 1) * (24 + 512) + 8) == 4);
  }
  SUBCASE("the header has fewer frames afterwards") {
    meanwhile = [&] {
      --words[4];
      seal_header(words);
    };
  }
  SUBCASE("the header has other salts afterwards") {
    meanwhile = [&] {
      words[8] = ~words[8];
      seal_header(words);
    };
  }
  const auto before = c.session->outbox.tail()->last.sequence;
  (void)c.session->capturer.capture(source, 1ms);
  CHECK((c.session->outbox.tail()->last.sequence > before) == right);
}

TEST_CASE("that the outbox was deleted is said, though a generation may not begin yet") {
  Captured c;
  for (int i = 0; i < 3; ++i) {
    c.sync();
    c.session->capturer.give_up("a test");
  }
  CHECK(c.capture() == Outcome::waiting);
  std::filesystem::remove_all(c.session->outbox.directory());
  CHECK(c.capture() == Outcome::failed);
  CHECK(c.session->capturer.error().find("was deleted while it was in use") != std::string::npos);
}

namespace {

/// Commits behind a savepoint whose pages went into the WAL, some of them twice, and that was
/// rolled back: some SQLites (3.40.1) leave the commit's frames without salts and checksums.
void commit_behind_spill(Sqlite& db, int more_rows = 0) {
  db.run("PRAGMA cache_size = 5; BEGIN; SAVEPOINT s");
  for (int i = 0; i < 40; ++i) db.run("INSERT INTO t(x) VALUES (randomblob(3000))");
  db.run("UPDATE t SET x = randomblob(2000) WHERE i % 3 = 0");
  db.run("ROLLBACK TO s; RELEASE s; UPDATE u SET n = n + 1");
  for (int i = 0; i < more_rows; ++i) db.run("INSERT INTO t(x) VALUES (randomblob(3000))");
  db.run("COMMIT");
}

/// As a SQLite does that has the bug: the last commit's frame without salts and checksum.
void unseal_last_frame(const Captured& c) {
  UniqueFd wal;
  const auto header = read_wal_index_header(c.db->source(wal).regions[0]);
  REQUIRE(header);
  const UniqueFd file(::open((c.path + "-wal").c_str(), O_WRONLY | O_CLOEXEC));
  const std::array<std::uint8_t, 16> zeros{};
  const auto at = static_cast<off_t>(32 + (header->frames - 1) * (24 + c.page_size) + 8);
  REQUIRE(::pwrite(file.get(), zeros.data(), zeros.size(), at) == 16);
}

}  // namespace

TEST_CASE("frames that SQLite left without salts and checksums are captured like any other") {
  Captured c;
  c.insert();
  c.db->run("CREATE TABLE u(n); INSERT INTO u VALUES (0)");
  const Generation generation = c.sync();
  for (int i = 0; i < 12; ++i) {
    INFO("round " << i);
    if (i % 2 == 0) {
      commit_behind_spill(*c.db, i % 5);
    } else {
      c.insert();
      unseal_last_frame(c);
    }
    if (i % 3 == 2) c.insert();
    CHECK(c.sync() == generation);
    if (i % 4 == 3) {
      c.db->run("PRAGMA wal_checkpoint(RESTART)");
      CHECK(c.sync() == generation);
    }
  }
  // In a WAL that began anew since the last look, too.
  c.db->run("PRAGMA wal_checkpoint(RESTART)");
  c.insert();
  unseal_last_frame(c);
  c.insert();
  CHECK(c.sync() == generation);
}

TEST_CASE("a recovery takes back what has no checksum, whatever is committed in its place") {
  Captured c;
  c.insert();
  c.sync();
  c.insert();
  unseal_last_frame(c);
  const Generation generation = c.sync();
  c.die();
  c.open();
  SUBCASE("nothing") {}
  SUBCASE("as much, in the same way") {
    c.insert();
    unseal_last_frame(c);
  }
  SUBCASE("more") {
    c.insert();
    unseal_last_frame(c);
    c.insert(2);
  }
  CHECK(c.sync() != generation);
}

TEST_CASE("what cannot be read for some time is an error that says so, until it was captured") {
  Captured c;
  c.sync();
  c.insert();
  const std::string wal = c.path + "-wal";
  const UniqueFd file(::open(wal.c_str(), O_RDWR | O_CLOEXEC));
  std::uint32_t salt = 0;
  const auto at = static_cast<off_t>(std::filesystem::file_size(wal) - 24 - c.page_size + 8);
  REQUIRE(::pread(file.get(), &salt, 4, at) == 4);
  const std::uint32_t other = ~salt;
  REQUIRE(::pwrite(file.get(), &other, 4, at) == 4);
  CHECK(c.capture() == Outcome::try_again);
  CHECK(c.session->capturer.error().empty());
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  Outcome outcome = Outcome::try_again;
  while (outcome == Outcome::try_again && std::chrono::steady_clock::now() < deadline) {
    outcome = c.capture();
  }
  CHECK(outcome == Outcome::failed);
  CHECK(c.session->capturer.error().find("could not be captured yet") != std::string::npos);
  REQUIRE(::pwrite(file.get(), &salt, 4, at) == 4);
  c.sync();
  CHECK(c.session->capturer.error().empty());
}

TEST_CASE("another's hold on the capture lock is waited for, within the limit") {
  Captured c;
  c.sync();
  c.insert();
  Outbox other(OutboxPlace::of(c.path, ""));
  {
    const auto held = other.lock(1s);
    UniqueFd wal;
    CHECK(c.session->capturer.capture(c.db->source(wal), 5ms) == Outcome::busy);
  }
  c.sync();
}

TEST_CASE("commit times never run backwards, and the number of commits is kept") {
  Captured c;
  c.sync();
  c.insert(5);
  UniqueFd wal;
  Source source = c.db->source(wal);
  source.own_change = read_wal_index_header(source.regions[0])->change;
  source.own_commit_time = 4'000'000'000'000'000'000;
  source.first_commit_time = 3'900'000'000'000'000'000;
  REQUIRE(c.session->capturer.capture(source, 1s) == Outcome::captured);
  CHECK(c.session->outbox.tail()->last.commits == 5);
  CHECK(c.session->outbox.tail()->last.first_commit == 3'900'000'000'000'000'000);
  CHECK(c.session->outbox.tail()->last.last_commit == 4'000'000'000'000'000'000);
  c.insert();
  REQUIRE(c.capture() == Outcome::captured);
  CHECK(c.session->outbox.tail()->last.last_commit == 4'000'000'000'000'000'000);
  CHECK(c.session->outbox.tail()->last.first_commit == 4'000'000'000'000'000'000);
}

TEST_CASE("a clean close and a new start continue the generation") {
  Captured c;
  c.insert(10);
  const Generation generation = c.sync();
  for (int i = 0; i < 3; ++i) {
    c.close_cleanly();
    c.open();
    SUBCASE("captured before the first commit") {
      CHECK(c.sync() == generation);
    }
    SUBCASE("captured after it") {}
    c.insert();
    CHECK(c.sync() == generation);
  }
}

TEST_CASE(
    "when the machine was started anew, the file's times prove nothing, the WAL's frames do") {
  Captured c;
  c.insert(10);
  const Generation generation = c.sync();
  const auto start_machine = [&] {
    const auto lock = c.session->outbox.lock(1s);
    Control control = c.session->outbox.control();
    control.boot ^= 1;
    c.session->outbox.set_control(control);
  };
  SUBCASE("after a clean close") {
    c.close_cleanly();
    c.session.emplace(c.path, c.page_size);
    c.session->outbox.refresh();
    REQUIRE(c.session->outbox.tail()->last.identity.inode != 0);
    start_machine();
    c.session->outbox.refresh();
    CHECK(c.session->outbox.tail()->last.identity.inode == 0);
    c.open();
    c.insert();
    CHECK(c.sync() != generation);
  }
  SUBCASE("with frames in the WAL") {
    start_machine();
    c.die();
    c.open();
    c.insert();
    CHECK(c.sync() == generation);
    // It is known in the new boot, too, what a clean close leaves.
    c.close_cleanly();
    c.open();
    c.insert();
    CHECK(c.sync() == generation);
  }
}

TEST_CASE("a clean close, then a stock write of equal size: a new generation") {
  Captured c;
  c.insert(10);
  const Generation generation = c.sync();
  c.close_cleanly();
  const auto size = std::filesystem::file_size(c.path);
  const auto first_bytes = [&] {
    std::array<char, 100> bytes{};
    std::ifstream(c.path).read(bytes.data(), bytes.size());
    return bytes;
  };
  const auto before = first_bytes();
  {
    Sqlite stock(c.path);
    stock.run("UPDATE t SET x = randomblob(300) WHERE i = 4");
  }
  // Not even the change counter tells.
  REQUIRE(std::filesystem::file_size(c.path) == size);
  REQUIRE(first_bytes() == before);
  c.open();
  c.insert();
  CHECK(c.sync() != generation);
}

TEST_CASE("a stock write whose WAL is still there: continued, or begun anew, never wrong") {
  Captured c;
  c.insert(10);
  const Generation generation = c.sync();
  c.close_cleanly();
  std::optional<Sqlite> stock(std::in_place, c.path);
  stock->run("UPDATE t SET x = randomblob(300) WHERE i = 4");
  c.open();
  // All that was written since the clean close is in this WAL.
  CHECK(c.sync() == generation);
}

TEST_CASE("a kill -9 with captured frames in the WAL continues the generation") {
  Captured c;
  c.insert(10);
  const Generation generation = c.sync();
  c.insert(3);  // not captured yet
  c.die();
  c.open();
  CHECK(c.sync() == generation);
  c.insert();
  CHECK(c.sync() == generation);
}

TEST_CASE("stock sessions after a kill -9 that leave the WAL's salts: proven by its frames") {
  Captured c;
  c.insert(10);
  const Generation generation = c.sync();
  c.die();
  std::optional<Sqlite> stock(std::in_place, c.path);
  stock->run("INSERT INTO t(x) VALUES ('stock')");
  c.open();
  CHECK(c.sync() == generation);
}

TEST_CASE("stock writes between sessions begin a new generation, though the counters agree") {
  // The number of commits in the stock session's WAL is made to equal the difference of change
  // counters, which begin anew with every wal-index.
  for (int commits = 1; commits <= 14; ++commits) {
    Captured c;
    c.insert(3);
    const Generation generation = c.sync();
    c.die();
    {
      Sqlite stock(c.path);
      stock.run("UPDATE t SET x = 'lost' WHERE i = 1");
      stock.run("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    c.open();
    for (int i = 0; i < commits; ++i) c.insert();
    INFO(commits);
    CHECK(c.sync() != generation);
  }
}

TEST_CASE("frames that went uncaptured in a reset begin a new generation") {
  Captured c;
  c.insert(3);
  const Generation generation = c.sync();
  c.db->run("UPDATE t SET x = 'lost' WHERE i = 1");
  SUBCASE("TRUNCATE by another connection") {
    Sqlite other(c.path);
    other.run("PRAGMA wal_checkpoint(TRUNCATE)");
    CHECK(c.sync() != generation);
  }
  SUBCASE("a reset by the next commit") {
    c.db->run("PRAGMA wal_checkpoint(PASSIVE)");
    c.insert();
    CHECK(c.sync() != generation);
  }
  SUBCASE("and the new WAL has grown beyond the old") {
    c.db->run("PRAGMA wal_checkpoint(RESTART)");
    c.insert(30);
    CHECK(c.sync() != generation);
  }
}

TEST_CASE("frames that only fill a sector are no commits, and those of a hot row are") {
  Captured c;
  c.insert(3);
  const Generation generation = c.sync();
  SUBCASE("what went uncaptured is as many commits as there are such frames") {
    Sqlite other("file:" + c.path + "?psow=0");
    other.run("PRAGMA synchronous=FULL");
    other.run("UPDATE t SET x = 'lost' WHERE i = 1");
    other.run("PRAGMA wal_checkpoint(PASSIVE)");
    other.run("UPDATE t SET x = 'kept' WHERE i = 2");
    UniqueFd wal;
    REQUIRE(read_wal_index_header(c.db->source(wal).regions[0]).value().frames == 2);
    CHECK(c.sync() != generation);
  }
  SUBCASE("a row that is written by each commit") {
    c.db->run("PRAGMA wal_checkpoint(PASSIVE)");
    for (const char* value : {"a", "b", "c"}) {
      c.db->run(std::string("UPDATE t SET x = '") + value + "' WHERE i = 1");
    }
    CHECK(c.sync() == generation);
  }
}

TEST_CASE("TRUNCATE by another connection with everything captured continues the generation") {
  Captured c;
  c.insert(3);
  const Generation generation = c.sync();
  const auto salt = [&] {
    UniqueFd wal;
    return read_wal_index_header(c.db->source(wal).regions[0]).value().salt;
  };
  const wal::Salt before = salt();
  Sqlite other(c.path);
  other.run("PRAGMA wal_checkpoint(TRUNCATE)");
  SUBCASE("seen at once") {
    CHECK(c.sync() == generation);
  }
  SUBCASE("seen after commits") {}
  SUBCASE("seen after commits of one that takes salts of its own") {
    c.insert(2);
    // Nothing tells that they follow the old ones.
    REQUIRE(salt()[0] != before[0] + 1);
  }
  other.run("INSERT INTO t(x) VALUES (1); INSERT INTO t(x) VALUES (2)");
  CHECK(c.sync() == generation);
}

TEST_CASE("a reset that was noted and then undone by a crash is continued") {
  Captured c;
  c.insert(5);
  const Generation generation = c.sync();
  UniqueFd wal;
  Source source = c.db->source(wal);
  const wal::Salt salt{4711, 4712};
  const auto region = reset_header(source.regions[0], salt);
  source.regions = {region.data()};
  c.session->capturer.note_new_wal(source, salt, std::chrono::seconds(1));
  REQUIRE(c.session->outbox.tail()->last.kind == RecordKind::reset);
  CHECK(c.session->outbox.tail()->last.source.salt == salt);

  SUBCASE("the old WAL is back") {
    c.die();
    c.open();
    CHECK(c.sync() == generation);
    c.insert();
    CHECK(c.sync() == generation);
  }
  SUBCASE("noted twice") {
    const wal::Salt second{5711, 5712};
    const auto region2 = reset_header(source.regions[0], second);
    source.regions = {region2.data()};
    c.session->capturer.note_new_wal(source, second, std::chrono::seconds(1));
    CHECK(c.session->outbox.tail()->last.source.salt == second);
    c.die();
    c.open();
    c.insert();
    CHECK(c.sync() == generation);
  }
  SUBCASE("a stock session reset the WAL after it was back") {
    c.die();
    {
      Sqlite stock(c.path);
      stock.run("UPDATE t SET x = 'lost' WHERE i = 1");
      stock.run("PRAGMA wal_checkpoint(RESTART)");
      stock.run("UPDATE t SET x = 'again' WHERE i = 2");
      c.session.reset();
      c.open();
      CHECK(c.sync() != generation);
    }
  }
}

TEST_CASE("resets noted by processes that died one after the other are continued") {
  Captured c;
  c.insert(5);
  const Generation generation = c.sync();
  c.db->run("PRAGMA wal_checkpoint(RESTART)");
  UniqueFd wal;
  Source source = c.db->source(wal);
  const wal::Salt first{4711, 4712};
  const auto reset = reset_header(source.regions[0], first);
  const auto left = recovered_header(source.regions[0], first);
  const auto note = [&](const std::vector<std::uint32_t>& region, wal::Salt salt) {
    // A process of its own each time, which has not looked at the outbox yet.
    c.session.emplace(c.path, c.page_size);
    source.regions = {region.data()};
    CHECK(c.session->capturer.note_new_wal(source, salt, 1s));
    REQUIRE(c.session->outbox.tail());
    CHECK(c.session->outbox.tail()->last.source.salt == salt);
  };
  note(reset, first);
  // From here on somebody has the database open who found no frame of this WAL.
  note(left, {5711, 5712});
  note(left, {6711, 6712});
  c.session.emplace(c.path, c.page_size);

  SUBCASE("the wal-index is as it was") {
    source.regions = {left.data()};
    CHECK(c.session->capturer.capture(source, 1s) == Outcome::up_to_date);
  }
  SUBCASE("the WAL of one of them is there") {
    const auto other = recovered_header(left.data(), {5711, 5712});
    source.regions = {other.data()};
    CHECK(c.session->capturer.capture(source, 1s) == Outcome::up_to_date);
  }
  SUBCASE("the file was written meanwhile") {
    std::filesystem::last_write_time(c.path, std::filesystem::file_time_type::clock::now());
    source.regions = {left.data()};
    CHECK(c.session->capturer.capture(source, 1s) == Outcome::captured);
    CHECK(c.session->outbox.tail()->generation != generation);
    return;
  }
  CHECK(c.session->outbox.tail()->generation == generation);
}

TEST_CASE("commits are not counted across a recovery of the wal-index") {
  Captured c;
  c.insert(3);
  const Generation generation = c.sync();
  UniqueFd wal;
  std::vector<std::uint32_t> words(kRegionSize / 4);
  const auto read_index = [&] {
    const Source source = c.db->source(wal);
    std::memcpy(words.data(), const_cast<const void*>(source.regions[0]), kRegionSize);
    return source;
  };
  read_index();
  const std::uint32_t counted = words[2];
  // As many commits as were counted, from 0 on, unseen; then a WAL with two.
  c.insert(static_cast<int>(counted));
  c.db->run("PRAGMA wal_checkpoint(RESTART)");
  c.insert(2);
  Source source = read_index();
  words[2] = counted + 2;
  seal_header(words);
  source.regions = {words.data()};
  source.recovered = true;
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::captured);
  CHECK(c.session->outbox.tail()->generation != generation);
}

TEST_CASE("a page size that changed begins a new generation") {
  Captured c(4096);
  c.insert(5);
  const Generation generation = c.sync();
  c.close_cleanly();
  {
    Sqlite stock(c.path);
    stock.run("PRAGMA journal_mode=DELETE; PRAGMA page_size=1024; VACUUM");
  }
  c.page_size = 1024;
  c.open();
  c.insert();
  CHECK(c.sync() != generation);
  CHECK(c.session->outbox.tail()->last.page_size == 1024);
}

TEST_CASE("a database file that was replaced begins a new generation") {
  Captured c;
  c.insert(5);
  const Generation generation = c.sync();
  c.close_cleanly();
  SUBCASE("by a copy, equal to the byte, with the same times") {
    const auto time = std::filesystem::last_write_time(c.path);
    const std::string copy = c.folder.file("copy");
    std::filesystem::copy_file(c.path, copy);
    std::filesystem::last_write_time(copy, time);
    std::filesystem::rename(copy, c.path);
  }
  SUBCASE("by another database") {
    std::filesystem::remove(c.path);
    Sqlite(c.path).run("CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
  }
  c.open();
  c.insert();
  CHECK(c.sync() != generation);
}

TEST_CASE("a database file that was replaced beside a killed process's WAL, likewise") {
  Captured c;
  c.insert(5);
  const Generation generation = c.sync();
  c.die();
  const std::string copy = c.folder.file("copy");
  std::filesystem::copy_file(c.path, copy);
  std::filesystem::rename(copy, c.path);
  Outbox(OutboxPlace::of(c.path, "")).set_file_note({});  // nothing else is known of the file
  c.open();
  c.insert();
  CHECK(c.sync() != generation);
}

namespace {

/// Another database of the same size, copied over the file: the inode stays. As a live connection
/// sees it, what checkpoints brought there is the copy's then.
void copy_over(const Captured& c) {
  const std::string backup = c.folder.file("backup.db");
  std::filesystem::remove(backup);
  {
    Sqlite other(backup, c.page_size);
    other.run("CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
    other.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) "
        "INSERT INTO t(x) SELECT randomblob(300) FROM n");
    other.run("PRAGMA wal_checkpoint(TRUNCATE)");
  }
  Captured::overwrite(backup, c.path);
}

/// The generation that begins then leaves out what is in the WAL, all of it checkpointed.
Generation begin_over_a_copy(Captured& c) {
  c.insert(40);
  c.sync();
  c.db->run("PRAGMA wal_checkpoint(PASSIVE)");
  c.sync();
  copy_over(c);
  CHECK(c.capture() == Outcome::captured);
  return c.session->outbox.tail()->generation;
}

}  // namespace

TEST_CASE("a backup copied over the file in place begins a new generation") {
  std::string seen;
  SUBCASE("") {
    seen = "by the next capture";
  }
  SUBCASE("") {
    seen = "behind the next commit";
  }
  SUBCASE("") {
    seen = "by another process";
  }
  for (const std::string mode : {"PASSIVE", "RESTART", "TRUNCATE"}) {
    for (const bool of_ours : {false, true}) {
      INFO(seen << mode << of_ours);
      Captured c;
      c.insert(40);
      const Generation generation = c.sync();
      UniqueFd wal;
      Source source = c.db->source(wal);
      if (of_ours) {
        source.checkpoint_begins = read_checkpoint_progress(source.regions[0]);
        REQUIRE(c.session->capturer.capture(source, 1s) == Outcome::up_to_date);
        CHECK_FALSE(c.session->outbox.file_note().mark);
      }
      c.db->run("PRAGMA wal_checkpoint(" + mode + ")");
      if (of_ours) {
        source.checkpoint_begins.reset();
        c.session->capturer.checkpoint_ended(source);
      } else {
        CHECK(c.sync() == generation);
      }
      REQUIRE(c.session->outbox.file_note().mark);
      copy_over(c);
      if (seen == "by the next capture") {
        CHECK(c.capture() == Outcome::captured);
        CHECK(c.session->outbox.tail()->generation != generation);
      } else if (seen == "behind the next commit") {
        Sqlite other(c.path);
        other.run("INSERT INTO t(x) VALUES (1)");
        CHECK(c.sync() != generation);
      } else {
        c.session.emplace(c.path, c.page_size);
        CHECK(c.capture() == Outcome::captured);
        CHECK(c.session->outbox.tail()->generation != generation);
      }
      CHECK_FALSE(c.session->outbox.file_note().overwritten);
    }
  }
}

TEST_CASE("a backup copied over the file beside a killed process's WAL begins a new generation") {
  Captured c;
  c.insert(40);
  c.sync();
  c.db->run("PRAGMA wal_checkpoint(TRUNCATE)");
  c.insert();
  const Generation generation = c.sync();
  c.die();
  copy_over(c);
  c.open();
  SUBCASE("seen at once") {}
  SUBCASE("seen after a commit") {
    c.insert();
  }
  CHECK(c.sync() != generation);
}

TEST_CASE("a file that is overwritten again, and again, is noticed each time") {
  Captured c;
  c.insert(40);
  SUBCASE("in a session that recovered the wal-index") {
    c.sync();
    c.die();
    c.open();
  }
  SUBCASE("behind a checkpoint of everything, and the mark of an emptied WAL") {
    c.sync();
    c.db->run("PRAGMA wal_checkpoint(PASSIVE)");
    c.sync();
    c.db->run("PRAGMA wal_checkpoint(TRUNCATE)");
    UniqueFd wal;
    CHECK(c.session->capturer.note_new_wal(c.db->source(wal), std::nullopt, 1s));
  }
  Generation last = c.sync();
  for (int i = 0; i < 2; ++i) {
    copy_over(c);
    // At rest since long; each time another one.
    std::filesystem::last_write_time(
        c.path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(i + 1));
    CHECK(c.capture() == Outcome::captured);
    const Generation now = c.session->outbox.tail()->generation;
    CHECK(now != last);
    last = now;
  }
}

TEST_CASE("a file overwritten before a checkpoint that begins is noticed by it") {
  Captured c;
  c.insert(40);
  const Generation generation = c.sync();
  UniqueFd wal;
  Source source = c.db->source(wal);
  const auto before = read_checkpoint_progress(source.regions[0]);
  copy_over(c);
  std::vector<std::uint32_t> begun(kRegionSize / 4);
  std::memcpy(begun.data(), const_cast<const void*>(source.regions[0]), kRegionSize);
  begun[32] = begun[4];  // as it says when it begins: up to the last frame
  source.regions[0] = begun.data();
  source.checkpoint_begins = before;
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::captured);
  CHECK(c.session->outbox.tail()->generation != generation);
}

TEST_CASE("a checkpoint under way is none that a new process doubts, or remembers the file of") {
  Captured c;
  c.insert(40);
  const Generation generation = c.sync();
  c.session.emplace(c.path, c.page_size);
  UniqueFd wal;
  Source source = c.db->source(wal);
  std::vector<std::uint32_t> begun(kRegionSize / 4);
  std::memcpy(begun.data(), const_cast<const void*>(source.regions[0]), kRegionSize);
  begun[32] = begun[4];
  source.regions[0] = begun.data();
  SUBCASE("another's, while it writes") {
    std::filesystem::last_write_time(c.path, std::filesystem::file_time_type::clock::now());
  }
  SUBCASE("one of ours, that withdrew the mark") {
    auto note = c.session->outbox.file_note();
    note.mark.reset();
    const auto lock = c.session->outbox.lock(1s);
    c.session->outbox.set_file_note(note);
  }
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::up_to_date);
  std::filesystem::last_write_time(c.path, std::filesystem::file_time_type::clock::now());
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::up_to_date);
  CHECK(c.session->outbox.tail()->generation == generation);
}

TEST_CASE("what an overwritten file's generation left out of the WAL comes back with a recovery") {
  Captured c;
  const Generation second = begin_over_a_copy(c);
  CHECK(c.session->outbox.file_note().left_out > 0);
  CHECK(c.session->outbox.tail()->last.page_count == 0);
  c.die();
  c.open();
  CHECK(c.sync() != second);
  CHECK(c.session->outbox.file_note().left_out == 0);
}

TEST_CASE(
    "what an overwritten file's generation left out of the WAL the next one leaves out, too") {
  Captured c;
  const Generation second = begin_over_a_copy(c);
  CHECK(c.session->outbox.file_note().left_out > 0);
  c.session->capturer.give_up("the replica lost it");
  CHECK(c.capture() == Outcome::captured);
  CHECK(c.session->outbox.tail()->generation != second);
  CHECK(c.session->outbox.tail()->last.page_count == 0);
  CHECK(c.session->outbox.file_note().left_out > 0);
}

TEST_CASE("who dies before it noted what a generation left out of the WAL leaves one that ends") {
  Captured c;
  const Generation second = begin_over_a_copy(c);
  {
    const auto lock = c.session->outbox.lock(1s);
    auto note = c.session->outbox.file_note();
    note.overwritten = true;
    note.left_out = 0;
    c.session->outbox.set_file_note(note);
  }
  SUBCASE("found as it was") {
    c.session.emplace(c.path, c.page_size);
  }
  SUBCASE("found behind a recovery") {
    c.die();
    c.open();
  }
  CHECK(c.capture() == Outcome::captured);
  CHECK(c.session->outbox.tail()->generation != second);
  CHECK_FALSE(c.session->outbox.file_note().overwritten);
}

TEST_CASE(
    "a program without this project that wrote is not taken for a backup copied over the file") {
  Captured c;
  c.insert(40);
  c.sync();
  c.db->run("PRAGMA wal_checkpoint(PASSIVE)");
  const Generation generation = c.sync();
  Sqlite stock(c.path);
  stock.run("INSERT INTO t(x) VALUES (randomblob(300))");
  stock.run("PRAGMA wal_checkpoint(RESTART)");
  stock.run("INSERT INTO t(x) VALUES (randomblob(300))");
  std::string said;
  log::set_sink([&](log::Level, std::string_view line) { said += line; });
  CHECK(c.sync() != generation);
  log::set_sink({});
  CHECK(said.find("cannot be proven complete") != std::string::npos);
  CHECK(said.find("overwritten") == std::string::npos);
}

TEST_CASE("a file overwritten while no generation goes on is what the next one begins with") {
  Captured c;
  c.insert(40);
  c.sync();
  c.db->run("PRAGMA wal_checkpoint(PASSIVE)");
  c.sync();
  c.session->capturer.give_up("a test");
  {
    const auto lock = c.session->outbox.lock(1s);
    Control control = c.session->outbox.control();
    control.full = 1;
    c.session->outbox.set_control(control);
  }
  CHECK(c.capture() == Outcome::waiting);
  copy_over(c);
  CHECK(c.capture() == Outcome::waiting);
  CHECK(c.session->outbox.file_note().overwritten);
  {
    const auto lock = c.session->outbox.lock(1s);
    Control control = c.session->outbox.control();
    control.full = 0;
    c.session->outbox.set_control(control);
  }
  CHECK(c.capture() == Outcome::captured);
  CHECK(c.session->outbox.tail()->last.page_count == 0);
  CHECK_FALSE(c.session->outbox.file_note().overwritten);
}

TEST_CASE("a -wal that was removed under an open connection is told") {
  Captured c;
  c.insert(3);
  c.sync();
  c.insert();
  UniqueFd wal;
  Source source = c.db->source(wal);
  source.wal_fd = -1;
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::try_again);  // it is there, at least
  std::filesystem::remove(c.path + "-wal");
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::failed);
  CHECK(c.session->capturer.error().find("-wal file was removed") != std::string::npos);
}

TEST_CASE("a process that dies in a checkpoint, or behind it, leaves no doubt of the file") {
  Captured c;
  c.insert(40);
  const Generation generation = c.sync();
  UniqueFd wal;
  Source source = c.db->source(wal);
  source.checkpoint_begins = read_checkpoint_progress(source.regions[0]);
  REQUIRE(c.session->capturer.capture(source, 1s) == Outcome::up_to_date);
  c.db->run("PRAGMA wal_checkpoint(PASSIVE)");
  SUBCASE("before it said so") {}
  SUBCASE("behind it") {
    source.checkpoint_begins.reset();
    c.session->capturer.checkpoint_ended(source);
  }
  c.die();
  c.open();
  CHECK(c.sync() == generation);
  c.insert();
  CHECK(c.sync() == generation);
}

TEST_CASE("what is not the file's content is no doubt, nor is anything of another boot") {
  Captured c;
  c.insert(10);
  const Generation generation = c.sync();
  REQUIRE(c.session->outbox.file_note().mark);
  SUBCASE("its mode") {
    std::filesystem::permissions(c.path, std::filesystem::perms::others_read,
                                 std::filesystem::perm_options::add);
  }
  SUBCASE("another boot") {
    const auto lock = c.session->outbox.lock(1s);
    const UniqueFd control(
        ::open((c.session->outbox.directory() + "/control").c_str(), O_RDWR | O_CLOEXEC));
    std::uint32_t boot = 0;
    REQUIRE(::pread(control.get(), &boot, sizeof boot, 128) == sizeof boot);
    boot ^= 2;
    REQUIRE(::pwrite(control.get(), &boot, sizeof boot, 128) == sizeof boot);
    std::filesystem::last_write_time(c.path, std::filesystem::file_time_type::clock::now());
  }
  c.insert();
  CHECK(c.sync() == generation);
}

TEST_CASE("a handle whose file has lost its name captures nothing, and ends its own generation") {
  Captured c;
  c.insert(10);
  const Generation generation = c.sync();
  UniqueFd wal;
  Source source = c.db->source(wal);
  source.opened = identify(c.path);
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::up_to_date);
  const std::string aside = c.folder.file("aside.db");
  const auto move = [&](const char* from, const char* to) {
    for (const char* suffix : {"", "-wal", "-shm"}) {
      std::filesystem::rename(c.folder.file(from) + suffix, c.folder.file(to) + suffix);
    }
  };
  move("app.db", "aside.db");
  SUBCASE("no other has it") {
    c.insert();
    CHECK(c.session->capturer.capture(source, 1s) == Outcome::moved);
    CHECK_FALSE(c.session->outbox.generation_alive());
    CHECK(c.session->outbox.tail()->generation == generation);
    const std::uint32_t frame = c.session->outbox.tail()->last.source.frame;
    CHECK(frame == read_wal_index_header(source.regions[0])->frames);  // what came until then
    c.insert();
    CHECK(c.session->capturer.capture(source, 1s) == Outcome::moved);
    CHECK(c.session->outbox.tail()->last.source.frame == frame);
    move("aside.db", "app.db");  // what was committed meanwhile is in its WAL
    CHECK(c.sync() != generation);
  }
  SUBCASE("another has") {
    std::optional<Sqlite> old(std::move(c.db));
    c.db.emplace(c.path);
    c.db->run("CREATE TABLE t(i INTEGER PRIMARY KEY, x)");
    c.session.emplace(c.path, c.page_size);
    const Generation next = c.sync();
    CHECK(next != generation);
    old->run("INSERT INTO t(x) VALUES (1)");
    CHECK(c.session->capturer.capture(source, 1s) == Outcome::moved);
    CHECK(c.session->capturer.note_new_wal(source, wal::Salt{1, 2}, 1s));
    c.session->capturer.note_clean_close(source.opened);
    c.insert();
    CHECK(c.sync() == next);
    CHECK(c.session->outbox.tail()->last.kind == RecordKind::batch);
  }
}

TEST_CASE("what came unseen before a file lost its name is not gone on with") {
  Captured c;
  c.insert(10);
  c.close_cleanly();
  c.open();
  UniqueFd wal;
  Source source = c.db->source(wal);
  source.opened = identify(c.path);
  {
    Sqlite stock(c.path);
    stock.run("INSERT INTO t(x) VALUES (randomblob(300))");
    stock.run("PRAGMA wal_checkpoint(RESTART)");
    stock.run("INSERT INTO t(x) VALUES (randomblob(300))");
  }
  const auto sequence = [&] {
    const auto lock = c.session->outbox.lock(1s);
    c.session->outbox.refresh();
    return c.session->outbox.tail()->last.sequence;
  };
  const std::uint64_t before = sequence();
  source = c.db->source(wal);
  source.opened = identify(c.path);
  std::filesystem::rename(c.path, c.folder.file("aside.db"));
  // As it was when it was opened: so says whoever opened it.
  source.opened->size = c.session->outbox.tail()->last.identity.size;
  source.opened->mtime = c.session->outbox.tail()->last.identity.mtime;
  source.opened->ctime = c.session->outbox.tail()->last.identity.ctime;
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::moved);
  CHECK(sequence() == before);
  CHECK_FALSE(c.session->outbox.generation_alive());
}

TEST_CASE("a torn outbox tail is captured again from the WAL") {
  Captured c;
  c.insert(3);
  const Generation generation = c.sync();
  const std::string log = c.session->outbox.log_path(1);
  const auto before = std::filesystem::file_size(log);
  c.insert();
  REQUIRE(c.capture() == Outcome::captured);
  const auto after = std::filesystem::file_size(log);
  c.session.reset();
  for (auto size = before; size < after; size += 97) {
    std::filesystem::resize_file(log, size);
    c.session.emplace(c.path, c.page_size);
    CHECK(c.capture() == Outcome::captured);
    c.replica.expect(c.session->outbox, *c.db);
    CHECK(c.replica.generation() == generation);
    c.session.reset();
  }
}

TEST_CASE("a generation that has lost its first record is not gone on with") {
  Captured c;
  c.insert(3);
  const Generation generation = c.sync();
  const std::string log = c.session->outbox.log_path(1);
  SUBCASE("with its frames still in the WAL") {}
  SUBCASE("with an empty WAL") {
    c.db->run("PRAGMA wal_checkpoint(TRUNCATE)");
  }
  SUBCASE("with its state in the file") {
    c.close_cleanly();
    c.open();
  }
  c.session.reset();
  std::filesystem::resize_file(log, LogFile::kHeaderSize + 100);
  c.session.emplace(c.path, c.page_size);
  CHECK(c.capture() == Outcome::captured);
  REQUIRE(c.session->outbox.tail());
  CHECK(c.session->outbox.tail()->last.database_size > 0);
  CHECK(c.sync() != generation);
}

TEST_CASE("a torn outbox tail whose WAL is gone begins a new generation") {
  Captured c;
  c.insert(3);
  const Generation generation = c.sync();
  const std::string log = c.session->outbox.log_path(1);
  const auto before = std::filesystem::file_size(log);
  c.insert();
  REQUIRE(c.capture() == Outcome::captured);
  c.db->run("PRAGMA wal_checkpoint(TRUNCATE)");
  c.session.reset();
  std::filesystem::resize_file(log, before + 100);
  c.open();
  c.insert();
  CHECK(c.sync() != generation);
}

TEST_CASE("a generation given up is not gone on with; quick successions are slowed down") {
  Captured c;
  Generation last = c.sync();
  int begun = 0;
  for (int i = 0; i < 10; ++i) {
    c.session->capturer.give_up("a test");
    CHECK_FALSE(c.session->outbox.generation_alive());
    c.insert();
    if (c.capture() == Outcome::waiting) break;
    ++begun;
    const Generation next = c.sync();
    CHECK(next != last);
    last = next;
  }
  CHECK(begun >= 1);
  CHECK(begun < 10);
  CHECK_FALSE(c.session->capturer.error().empty());
}

TEST_CASE("a beginning is announced before it looks, and one that fails is not counted") {
  Captured c(512);
  c.sync();
  c.session->capturer.give_up("a test");
  const std::string many =
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) "
      "INSERT INTO t(x) SELECT randomblob(400) FROM n";
  c.db->run(many);
  const Outbox other(OutboxPlace::of(c.path, ""));
  const auto announced_before = other.announced_beginning();
  auto announced = announced_before;
  UniqueFd wal;
  Source source = c.db->source(wal);
  const auto map = source.map_more;
  // Between the look at the wal-index and that at the WAL, somebody who waits no more resets it.
  source.map_more = [&](std::size_t region) {
    if (announced == announced_before) {
      announced = other.announced_beginning();
      c.insert();
      c.db->run("PRAGMA wal_checkpoint(TRUNCATE)");
      c.db->run(many);
    }
    return map(region);
  };
  CHECK(c.session->capturer.capture(source, 1s) == Outcome::captured);
  CHECK(announced_before != 0);
  CHECK(announced != announced_before);
  CHECK(c.session->outbox.control().quick_starts == 1);
  c.sync();
}

TEST_CASE("an outbox over its size ends the generation, and waits for the replica") {
  Captured c;
  c.session.emplace(c.path, c.page_size, 1 << 20);
  const Generation generation = c.sync();
  Outcome outcome = Outcome::captured;
  for (int i = 0; i < 100 && outcome == Outcome::captured; ++i) {
    c.db->run("INSERT INTO t(x) VALUES (randomblob(1000000))");
    outcome = c.capture();
  }
  CHECK(outcome == Outcome::waiting);
  CHECK(c.session->outbox.control().full == 1);
  CHECK_FALSE(c.session->outbox.generation_alive());
  CHECK(c.capture() == Outcome::waiting);
  CHECK(c.session->capturer.error().find("outbox-max-size") != std::string::npos);
  {
    const auto lock = c.session->outbox.lock(1s);
    Control control = c.session->outbox.control();
    control.full = 0;
    c.session->outbox.set_control(control);
  }
  CHECK(c.sync() != generation);
}

TEST_CASE("whatever happens, what was captured is what the database is") {
  std::mt19937_64 random(test_seed());
  const auto below = [&](std::uint64_t n) { return random() % n; };
  int generations = 0;
  for (int run = 0; run < 15; ++run) {
    Captured c(below(2) == 0 ? 512 : 4096);
    Generation last;
    for (int step = 0; step < 40; ++step) {
      switch (below(12)) {
        case 0:
        case 1:
        case 2:
          c.insert(static_cast<int>(below(5)) + 1);
          break;
        case 3:
          c.db->run("UPDATE t SET x = randomblob(200) WHERE i % 3 = " + std::to_string(below(3)));
          break;
        case 4:
          c.db->run("DELETE FROM t WHERE i % 2 = " + std::to_string(below(2)));
          break;
        case 5:
          if (below(3) == 0) c.db->run("VACUUM");
          break;
        case 6:
          c.db->run("PRAGMA wal_checkpoint(PASSIVE)");
          break;
        case 7:
          c.capture();
          c.db->run(below(2) == 0 ? "PRAGMA wal_checkpoint(RESTART)"
                                  : "PRAGMA wal_checkpoint(TRUNCATE)");
          break;
        case 8:
          c.close_cleanly();
          if (below(3) == 0) {
            Sqlite stock(c.path);
            stock.run("UPDATE t SET x = randomblob(200) WHERE i = (SELECT max(i) FROM t)");
          }
          c.open();
          break;
        case 9:
          c.die();
          if (below(3) == 0) {
            Sqlite stock(c.path);
            stock.run("UPDATE t SET x = randomblob(200) WHERE i = (SELECT min(i) FROM t)");
            if (below(2) == 0) stock.run("PRAGMA wal_checkpoint(TRUNCATE)");
          }
          c.open();
          break;
        case 10: {
          Sqlite other(c.path);
          other.run("INSERT INTO t(x) VALUES (randomblob(300))");
          if (below(2) == 0) other.run("PRAGMA wal_checkpoint(TRUNCATE)");
          break;
        }
        default: {
          const auto outcome = c.capture();
          if (outcome == Outcome::waiting) continue;
          const Generation now = c.sync();
          if (now != last) ++generations;
          last = now;
        }
      }
      // No test waits for the pauses between generations.
      const auto lock = c.session->outbox.lock(1s);
      c.session->outbox.refresh();
      Control control = c.session->outbox.control();
      control.quick_starts = 0;
      c.session->outbox.set_control(control);
    }
  }
  CHECK(generations > 15);
}
