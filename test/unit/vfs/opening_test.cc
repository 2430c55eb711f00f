// Which databases are replicated, what the shim answers, and what it says.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <unistd.h>

#include <doctest/doctest.h>

#include "base/log.h"
#include "recording_connection.h"
#include "support.h"
#include "vfs/registration.h"
#include "vfs/shim.h"

using namespace sqlstream::testing;

namespace {

bool logged(const std::vector<std::string>& lines, const std::string& text) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& line) { return line.find(text) != std::string::npos; });
}

std::string vfs_name(const Sqlite& db) {
  char* name = nullptr;
  sqlite3_file_control(db.get(), "main", SQLITE_FCNTL_VFSNAME, &name);
  std::string text = name ? name : "";
  sqlite3_free(name);
  return text;
}

}  // namespace

TEST_CASE("without a replica: one warning, and strict=1 refuses") {
  register_shim();
  const TempFolder folder;
  take_log();
  {
    Sqlite first("file:" + folder.file("a.db"));
    Sqlite second("file:" + folder.file("b.db"));
    first.must("CREATE TABLE t(x)");
    second.must("CREATE TABLE t(x)");
    CHECK(open_connections() == 0);
    // One a process: an earlier test may have had it.
    const auto lines = take_log();
    CHECK(lines.size() <= 1);
    CHECK_FALSE(logged(lines, "b.db"));
  }
  const std::string strict = folder.file("strict.db");
  const Sqlite refused("file:" + strict + "?strict=1");
  CHECK(refused.result() == SQLITE_CANTOPEN);
  CHECK(logged(take_log(), "cannot open " + strict + " with strict=1: no replica is configured"));
  CHECK_FALSE(std::filesystem::exists(strict));

  const Sqlite replica(replicated(strict, "&strict=1"));
  CHECK(replica.result() == SQLITE_OK);
}

TEST_CASE("a malformed replica URL passes through, with the reason logged; strict=1 refuses") {
  register_shim();
  const TempFolder folder;
  const std::string path = folder.file("a.db");
  take_log();
  Sqlite db("file:" + path + "?replica=gopher://x");
  db.must("CREATE TABLE t(x)");
  CHECK(open_connections() == 0);
  const auto lines = take_log();
  CHECK(logged(lines, path + " is not replicated: "));
  CHECK(logged(lines, "gopher"));
  CHECK(db.must("PRAGMA sqlstream_status").find("gopher") != std::string::npos);

  const Sqlite strict("file:" + path + "?strict=1&replica=gopher://x");
  CHECK(strict.result() == SQLITE_CANTOPEN);
  CHECK(logged(take_log(), "gopher"));
}

TEST_CASE("the environment names a replica for every database") {
  register_shim();
  const TempFolder folder;
  ::setenv("SQLSTREAM_REPLICA_URL", "file:///tmp/nowhere/{name}", 1);
  {
    const Sqlite db("file:" + folder.file("a.db"));
    CHECK(open_connections() == 1);
    const Sqlite memory(":memory:");
    const Sqlite named("file:shared?mode=memory&cache=shared");
    const Sqlite temporary("");
    CHECK(memory.result() == SQLITE_OK);
    CHECK(named.result() == SQLITE_OK);
    CHECK(temporary.result() == SQLITE_OK);
    CHECK(open_connections() == 1);
  }
  ::unsetenv("SQLSTREAM_REPLICA_URL");
  CHECK(open_connections() == 0);
}

TEST_CASE("a database that cannot be opened") {
  register_shim();
  const TempFolder folder;
  take_events();
  const Sqlite db(replicated(folder.file("none/a.db")));
  CHECK(db.result() == SQLITE_CANTOPEN);
  CHECK(open_connections() == 0);
  for (const std::string& event : take_events()) CHECK(event.rfind("open ", 0) != 0);
}

TEST_CASE("a read-only open says so to the Connection, and so does one of what cannot change") {
  register_shim();
  const TempFolder folder;
  const std::string path = folder.file("a.db");
  Sqlite(path, nullptr).must("CREATE TABLE t(x)");
  take_events();
  for (const char* parameter : {"", "&immutable=1"}) {
    const int mode = *parameter == 0 ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
    const Sqlite db(replicated(path, parameter), "sqlstream", mode);
    CHECK(db.result() == SQLITE_OK);
    const auto events = take_events();
    CHECK(std::find(events.begin(), events.end(), "open a.db read-only") != events.end());
  }
}

TEST_CASE("an engine that takes no Connection leaves the database usable; strict=1 refuses") {
  register_shim();
  const TempFolder folder;
  set_refusing(true);
  Sqlite db(replicated(folder.file("a.db")));
  db.must("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
  CHECK(db.must("PRAGMA sqlstream_status").find("a test refuses") != std::string::npos);
  take_log();
  const Sqlite strict(replicated(folder.file("a.db"), "&strict=1"));
  CHECK(strict.result() == SQLITE_CANTOPEN);
  CHECK(logged(take_log(), "with strict=1: a test refuses"));
  set_refusing(false);
  CHECK(db.must("SELECT * FROM t") == "1\n");
  CHECK(open_connections() == 0);
}

TEST_CASE("what the shim answers") {
  register_shim();
  const TempFolder folder;
  const std::string path = folder.file("a \"quoted\".db");
  Sqlite plain("file:" + path);
  Sqlite db(replicated(folder.file("b.db")));
  CHECK(vfs_name(plain) == "sqlstream/unix");
  CHECK(vfs_name(db) == "sqlstream/unix");

  CHECK(db.must("PRAGMA sqlstream_version") == SQLSTREAM_VERSION "\n");
  CHECK(db.must("PRAGMA SQLSTREAM_STATUS") == "{\"recorded\":\"b.db\"}\n");
  CHECK(db.must("SELECT sqlstream_version()") == SQLSTREAM_VERSION "\n");
  CHECK(db.must("SELECT sqlstream_status()") == "{\"recorded\":\"b.db\"}\n");
  CHECK(plain.must("SELECT json_extract(sqlstream_status(), '$.state'), "
                   "json_extract(sqlstream_status(), '$.db')") == "not replicated|" + path + "\n");
  CHECK(plain.must("SELECT sqlstream_status('nowhere'), sqlstream_wait(0)") == "NULL|NULL\n");
  CHECK(plain.must("PRAGMA page_size") == "4096\n");

  Sqlite memory(":memory:");
  CHECK(memory.must("SELECT sqlstream_version(), sqlstream_status()") == SQLSTREAM_VERSION
        "|NULL\n");
  memory.must("ATTACH '" + replicated(folder.file("c.db")) + "' AS c");
  CHECK(memory.must("SELECT sqlstream_status('c')") == "{\"recorded\":\"c.db\"}\n");
  CHECK(memory.must("PRAGMA c.sqlstream_status") == "{\"recorded\":\"c.db\"}\n");
}

TEST_CASE("sqlstream_wait waits for every replicated database of the connection") {
  register_shim();
  const TempFolder folder;
  Sqlite db(replicated(folder.file("a.db")));
  db.must("ATTACH '" + replicated(folder.file("b.db")) + "' AS b; ATTACH ':memory:' AS c");
  // Beside those of what it reads once, to see what others committed.
  const auto waits = [] {
    auto events = take_events();
    std::erase_if(events, [](const auto& event) { return !event.starts_with("wait_shipped"); });
    return events;
  };
  waits();
  CHECK(db.must("SELECT sqlstream_wait(60000)") == "1\n");
  CHECK(waits() == std::vector<std::string>{"wait_shipped a.db 1", "wait_shipped b.db 1"});
  set_shipped(false);
  CHECK(db.must("SELECT sqlstream_wait(-1)") == "0\n");
  CHECK(waits() == std::vector<std::string>{"wait_shipped a.db 0", "wait_shipped b.db 0"});
  set_shipped(true);
}

TEST_CASE("functions that act cannot be called from a schema") {
  register_shim();
  const TempFolder folder;
  Sqlite db("file:" + folder.file("a.db"));
  db.must("CREATE VIEW v AS SELECT sqlstream_wait(1)");
  db.run("SELECT * FROM v");
  CHECK(db.result() == SQLITE_ERROR);
}

TEST_CASE("a shim has the abilities of the VFS beneath it, no more and no fewer") {
  register_shim();
  const TempFolder folder;
  for (const std::string base : {"unix", "unix-none", "unix-dotfile", "unix-excl"}) {
    CAPTURE(base);
    sqlstream::Shim shim;
    shim.host = {&api(), sqlite3_vfs_find(base.c_str())};
    sqlstream::make_vfs(shim);
    const std::string name = "sqlstream-over-" + base;
    shim.vfs.zName = name.c_str();
    REQUIRE(sqlite3_vfs_register(&shim.vfs, 0) == SQLITE_OK);
    CHECK(shim.vfs.iVersion == shim.host.base->iVersion);
    {
      const std::string path = folder.file(base);
      Sqlite plain("file:" + path + ".plain", base.c_str());
      Sqlite shimmed(replicated(path + ".shim"), name.c_str());
      CHECK(vfs_name(shimmed) == name + '/' + base);

      sqlite3_file* file = nullptr;
      sqlite3_file* shim_file = nullptr;
      sqlite3_file_control(plain.get(), "main", SQLITE_FCNTL_FILE_POINTER, &file);
      sqlite3_file_control(shimmed.get(), "main", SQLITE_FCNTL_FILE_POINTER, &shim_file);
      REQUIRE(file);
      REQUIRE(shim_file);
      const sqlite3_io_methods& has = *shim_file->pMethods;
      const sqlite3_io_methods& wanted = *file->pMethods;
      CHECK(has.iVersion == wanted.iVersion);
      if (wanted.iVersion >= 2) CHECK((has.xShmMap == nullptr) == (wanted.xShmMap == nullptr));
      if (wanted.iVersion >= 3) CHECK((has.xFetch == nullptr) == (wanted.xFetch == nullptr));
      CHECK(has.xSectorSize(shim_file) == wanted.xSectorSize(file));
      CHECK(has.xDeviceCharacteristics(shim_file) == wanted.xDeviceCharacteristics(file));

      for (const char* sql :
           {"PRAGMA journal_mode=WAL", "CREATE TABLE t(x)", "INSERT INTO t VALUES (1)",
            "SELECT * FROM t", "PRAGMA mmap_size=65536", "PRAGMA journal_mode"}) {
        CAPTURE(sql);
        CHECK(plain.run(sql) == shimmed.run(sql));
        CHECK(plain.result() == shimmed.result());
      }
    }
    sqlite3_vfs_unregister(&shim.vfs);
  }
}

TEST_CASE("system calls are the base VFS's") {
  register_shim();
  sqlite3_vfs* shim = sqlite3_vfs_find("sqlstream");
  sqlite3_vfs* base = sqlite3_vfs_find("unix");
  REQUIRE(shim);
  CHECK((shim->xGetSystemCall(shim, "open") == base->xGetSystemCall(base, "open")));
  CHECK(std::string(shim->xNextSystemCall(shim, "open")) == base->xNextSystemCall(base, "open"));
  CHECK(shim->mxPathname == base->mxPathname);
  sqlite3_int64 now = 0;
  CHECK(shim->xCurrentTimeInt64(shim, &now) == SQLITE_OK);
  CHECK(now > 0);
  // Not the default one unless asked for.
  CHECK(sqlite3_vfs_find(nullptr) == base);
}

TEST_CASE("an open that fails half-way is closed in the base VFS") {
  register_shim();
  static sqlite3_vfs* unix_vfs = sqlite3_vfs_find("unix");
  static int closed;
  static sqlite3_io_methods methods;
  closed = 0;
  methods = {};
  methods.iVersion = 1;
  methods.xClose = [](sqlite3_file*) {
    ++closed;
    return SQLITE_OK;
  };
  sqlite3_vfs failing = *unix_vfs;
  failing.zName = "failing";
  failing.xOpen = [](sqlite3_vfs*, const char*, sqlite3_file* file, int, int*) {
    file->pMethods = &methods;
    return SQLITE_IOERR_ACCESS;
  };
  sqlstream::Shim shim;
  shim.host = {&api(), &failing};
  sqlstream::make_vfs(shim);
  shim.vfs.zName = "sqlstream-over-failing";
  REQUIRE(sqlite3_vfs_register(&shim.vfs, 0) == SQLITE_OK);
  const TempFolder folder;
  Sqlite db("file:" + folder.file("a.db"), "sqlstream-over-failing");
  db.run("SELECT * FROM sqlite_schema");
  CHECK(db.result() != SQLITE_OK);
  CHECK(closed >= 1);
  sqlite3_vfs_unregister(&shim.vfs);
}

TEST_CASE("a library that is too old is told so") {
  register_shim();
  sqlite3_api_routines old{};
  old.libversion_number = [] { return 3034001; };
  old.libversion = []() -> const char* { return "3.34.1"; };
  std::string error;
  CHECK(sqlstream::register_library(old, nullptr, error) == SQLITE_ERROR);
  CHECK(error ==
        "sqlstream needs SQLite 3.35.0 or newer, and this program has 3.34.1: use a newer SQLite "
        "library");
}

TEST_CASE("a library that another copy of the extension serves is left alone") {
  register_shim();
  sqlite3_vfs* before = sqlite3_vfs_find("sqlstream");
  sqlite3_api_routines other = api();
  other.sourceid = []() -> const char* { return ""; };
  std::string error;
  CHECK(sqlstream::register_library(other, nullptr, error) == SQLITE_OK);
  CHECK(sqlite3_vfs_find("sqlstream") == before);
}

TEST_CASE("registering again changes nothing and brings the functions back") {
  register_shim();
  sqlite3_vfs* before = sqlite3_vfs_find("sqlstream");
  sqlite3_reset_auto_extension();
  Sqlite db(":memory:");
  db.run("SELECT sqlstream_version()");
  CHECK(db.result() == SQLITE_ERROR);
  std::string error;
  CHECK(sqlstream::register_library(api(), db.get(), error) == SQLITE_OK);
  CHECK(sqlite3_vfs_find("sqlstream") == before);
  CHECK(db.must("SELECT sqlstream_version()") == SQLSTREAM_VERSION "\n");
  CHECK(Sqlite(":memory:").must("SELECT sqlstream_version()") == SQLSTREAM_VERSION "\n");
}

TEST_CASE("what the engine logs reaches SQLite's log at the application's next commit") {
  register_shim();
  const TempFolder folder;
  Sqlite db(replicated(folder.file("a.db")));
  db.must("CREATE TABLE t(x)");
  take_log();
  std::thread([] {
    sqlstream::log::warn("the store is away", {{"replica", "s3"}});
    sqlstream::log::info("not worth a line");
  }).join();
  CHECK(take_log().empty());
  db.must("INSERT INTO t VALUES (1)");
  const auto lines = take_log();
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].rfind("sqlstream: ", 0) == 0);
  CHECK(lines[0].find("the store is away") != std::string::npos);
  CHECK(lines[0].find("replica=s3") != std::string::npos);
  db.must("INSERT INTO t VALUES (2)");
  CHECK(take_log().empty());
}
