#include "vfs/registration.h"

#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <memory>
#include <mutex>

#include "base/log.h"
#include "config/units.h"
#include "vfs/functions.h"
#include "vfs/log_relay.h"
#include "vfs/shim.h"

namespace sqlstream {
namespace {

constexpr int kOldestSqlite = 3035000;

/// The part of the table every supported library has: a newer member used by accident would be
/// read beyond the end of an older library's table.
constexpr std::size_t kTableSize = offsetof(sqlite3_api_routines, changes64);

struct Library {
  /// Tells libraries apart. The table's address would not: with the preloading library in the
  /// process, there are two tables for one library.
  const char* (*identity)() = nullptr;
  sqlite3_api_routines api{};
  Shim shim;
};

// Never freed: SQLite calls into these until the last moment of the process.
std::mutex mutex;
std::array<Library*, kMaxLibraries> known;

/// The index of the library in `known`, or of its free place there, or kMaxLibraries.
std::size_t place_of(const sqlite3_api_routines& api) {
  std::size_t i = 0;
  while (i < kMaxLibraries && known[i] && known[i]->identity != api.sourceid) ++i;
  return i;
}

int on_connection(sqlite3* db, char**, const sqlite3_api_routines* api) noexcept {
  std::size_t place = 0;
  {
    const std::lock_guard lock(mutex);
    place = place_of(*api);
  }
  if (place == kMaxLibraries || !known[place]) return SQLITE_OK;
  return register_functions(place, known[place]->api, db);
}

bool wanted_as_default() {
  const char* value = std::getenv("SQLSTREAM_DEFAULT_VFS");
  return value != nullptr && config::parse_bool(value) == true;
}

void check_default() {
  const char* value = std::getenv("SQLSTREAM_DEFAULT_VFS");
  if (value == nullptr || *value == 0 || config::parse_bool(value)) return;
  log::warn("SQLSTREAM_DEFAULT_VFS must be 1 or 0; the VFS is not SQLite's default",
            {{"value", value}});
}

/// Keeps the SQLite library in memory when the program lets go of it with dlclose(3): threads of
/// ours call it until all is shipped.
void keep_loaded(const sqlite3_api_routines& api) {
  Dl_info info{};
  link_map* object = nullptr;
  const void* inside = reinterpret_cast<const void*>(api.libversion);
  if (dladdr1(inside, &info, reinterpret_cast<void**>(&object), RTLD_DL_LINKMAP) == 0) return;
  void* handle = dlopen(object->l_name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  if (handle != nullptr) dlclose(handle);
}

}  // namespace

int register_library(const sqlite3_api_routines& api, sqlite3* db, std::string& error) {
  if (api.libversion_number() < kOldestSqlite) {
    error = std::string("sqlstream needs SQLite 3.35.0 or newer, and this program has ") +
            api.libversion() + ": use a newer SQLite library";
    return SQLITE_ERROR;
  }

  std::size_t place = 0;
  {
    const std::lock_guard lock(mutex);
    place = place_of(api);
    if (place == kMaxLibraries) {
      error = "sqlstream serves at most " + std::to_string(kMaxLibraries) +
              " SQLite libraries in one process";
      return SQLITE_ERROR;
    }
    if (!known[place]) {
      // Another copy of the extension, from another file: one at a time can serve a library.
      if (api.vfs_find("sqlstream")) return SQLITE_OK;

      auto library = std::make_unique<Library>();
      library->identity = api.sourceid;
      std::memcpy(static_cast<void*>(&library->api), &api, kTableSize);
      library->shim.host = {&library->api, api.vfs_find(nullptr)};
      if (!library->shim.host.base) {
        error = "sqlstream cannot be used: the SQLite library has no default VFS to build on";
        return SQLITE_ERROR;
      }
      make_vfs(library->shim);
      const int result = api.vfs_register(&library->shim.vfs, wanted_as_default() ? 1 : 0);
      if (result != SQLITE_OK) {
        error = "sqlstream cannot register its VFS: SQLite is out of memory";
        return result;
      }
      keep_loaded(api);
      known[place] = library.release();
      if (place == 0) {
        log_relay::install();
        check_default();
      }
    } else if (wanted_as_default() && api.vfs_find(nullptr) == known[place]->shim.host.base) {
      // After sqlite3_shutdown(), SQLite begins with its own default again.
      api.vfs_register(&known[place]->shim.vfs, 1);
    }
  }
  // Again when loaded again: sqlite3_shutdown() and sqlite3_reset_auto_extension() forget it.
  const int result = api.auto_extension(reinterpret_cast<void (*)(void)>(on_connection));
  if (result != SQLITE_OK) {
    error = "sqlstream cannot register its SQL functions: SQLite is out of memory";
    return result;
  }
  return register_functions(place, known[place]->api, db);
}

}  // namespace sqlstream
