// SQLite looks whether its process has locks on a file and then closes a descriptor of it, which
// drops all of them: a first lock must not come in between.

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include <doctest/doctest.h>

#include "recording_connection.h"
#include "shipper/source_file.h"
#include "support.h"

using namespace sqlstream::testing;
using namespace std::chrono_literals;

namespace {

std::atomic<bool> closing{false};
std::atomic<bool> locked{false};
bool locked_meanwhile = false;
const sqlite3_io_methods* base_methods = nullptr;

int close_slowly(sqlite3_file* file) {
  closing.store(true);
  std::this_thread::sleep_for(100ms);
  locked_meanwhile = locked.load();
  file->pMethods = base_methods;
  return file->pMethods->xClose(file);
}

int open_to_close_slowly(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags,
                         int* out_flags) {
  auto* base = static_cast<sqlite3_vfs*>(vfs->pAppData);
  const int result = base->xOpen(base, name, file, flags, out_flags);
  if (result != SQLITE_OK) return result;
  static sqlite3_io_methods methods;
  base_methods = file->pMethods;
  methods = *base_methods;
  methods.xClose = close_slowly;
  file->pMethods = &methods;
  return result;
}

}  // namespace

TEST_CASE("a connection's first lock waits while the shim closes another handle of the file") {
  register_shim();
  const TempFolder folder;
  const std::string path = folder.file("app.db");
  Sqlite(path, nullptr).must("PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
  Sqlite db(replicated(path));

  sqlite3_vfs* unix_vfs = sqlite3_vfs_find("unix");
  sqlite3_vfs slow = *unix_vfs;
  slow.pAppData = unix_vfs;
  slow.xOpen = open_to_close_slowly;
  const sqlstream::Host host{&api(), &slow};
  std::thread background([&] { const sqlstream::SourceFile file(host, path); });
  while (!closing.load()) std::this_thread::yield();
  db.must("SELECT count(*) FROM t");
  locked.store(true);
  background.join();
  CHECK_FALSE(locked_meanwhile);
}
