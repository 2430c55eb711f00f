// sqlstream-preload.so: with this in LD_PRELOAD, a program that links libsqlite3 dynamically has
// the VFS "sqlstream" without loading an extension.
//
// Interposed: sqlite3_open, sqlite3_open16, sqlite3_open_v2, sqlite3_vfs_find. At the first of
// these calls, and not before, sqlstream.so is loaded from the folder this library is in and
// registered with the SQLite library the call was meant for. Then the call goes there. Also
// sqlite3_shutdown, after which SQLite has forgotten most of that: the next call registers anew.
//
// LD_PRELOAD is inherited by every program a program starts, so this library is small, needs libc
// only, and does nothing in a program that has no SQLite.
//
// Which library a call was meant for is found by who calls: the module Python loads brings its
// libsqlite3 with it, out of sight of RTLD_NEXT. And a library's table of API pointers (which
// extensions call through) holds the interposed functions, as its own symbols are interposed too:
// so the table handed to sqlstream.so is a copy with the real ones, and calls from elsewhere that
// have no library of their own go to the one the thread used last.

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#pragma GCC visibility push(default)
#include <sqlite3.h>
#include <sqlite3ext.h>
#pragma GCC visibility pop
// The header makes macros of the names that are defined here.
#undef sqlite3_open
#undef sqlite3_open16
#undef sqlite3_open_v2
#undef sqlite3_shutdown
#undef sqlite3_vfs_find

namespace {

using Api = sqlite3_api_routines;
using Entry = int (*)(sqlite3*, char**, const Api*);
using AutoExtension = int (*)(sqlite3*, char**, const Api*);

/// One SQLite library in this process, as it is without this one in front.
struct Library {
  void* start = nullptr;  ///< where it is mapped
  decltype(&sqlite3_open) open = nullptr;
  decltype(&sqlite3_open16) open16 = nullptr;
  decltype(&sqlite3_open_v2) open_v2 = nullptr;
  decltype(&sqlite3_vfs_find) vfs_find = nullptr;
  decltype(&sqlite3_shutdown) shutdown = nullptr;
  int (*close)(sqlite3*) = nullptr;
  int (*auto_extension)(AutoExtension) = nullptr;
  int (*cancel_auto_extension)(AutoExtension) = nullptr;
  void (*log)(int, const char*, ...) = nullptr;
  Api api{};  ///< the part of its table that sqlstream uses, with the functions above
  bool registered = false;
};

constexpr int kMaxLibraries = 8;
// Members that every supported SQLite has (3.35).
constexpr std::size_t kTableSize = offsetof(Api, changes64);

// Registering calls into SQLite, and so back into this library, where `libraries` is looked at.
pthread_mutex_t registration_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t libraries_mutex = PTHREAD_MUTEX_INITIALIZER;
Library libraries[kMaxLibraries];

__thread Library* used_last = nullptr;
/// Set while this thread registers: calls go straight through.
__thread bool registering = false;

template <typename Function>
void find_in(void* handle, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
}

void* start_of(const void* address) {
  Dl_info info;
  return address && dladdr(address, &info) ? info.dli_fbase : nullptr;
}

/// The loaded object that holds `address`; to be closed with dlclose. Null for the main program.
void* open_object_of(const void* address) {
  Dl_info info;
  link_map* map = nullptr;
  if (!dladdr1(address, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP)) return nullptr;
  if (!map || !map->l_name || !*map->l_name) return nullptr;
  return dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD);
}

/// The sqlite3_open_v2 that code at `caller` would call without this library; null: unknown.
void* real_open_v2(const void* caller) {
  void* const own_start = start_of(reinterpret_cast<void*>(&real_open_v2));
  void* found = nullptr;
  if (void* object = open_object_of(caller)) {
    found = dlsym(object, "sqlite3_open_v2");
    dlclose(object);
  }
  if (!found || start_of(found) == own_start) found = dlsym(RTLD_NEXT, "sqlite3_open_v2");
  return found;
}

/// The library whose sqlite3_open_v2 is `open_v2`; null when there are too many.
Library* library_with(void* open_v2) {
  void* const start = start_of(open_v2);
  for (Library& library : libraries) {
    if (library.start == start) return &library;
    if (library.start) continue;
    void* object = open_object_of(open_v2);
    if (!object) return nullptr;
    find_in(object, "sqlite3_open", library.open);
    find_in(object, "sqlite3_open16", library.open16);
    find_in(object, "sqlite3_open_v2", library.open_v2);
    find_in(object, "sqlite3_vfs_find", library.vfs_find);
    find_in(object, "sqlite3_shutdown", library.shutdown);
    find_in(object, "sqlite3_close", library.close);
    find_in(object, "sqlite3_auto_extension", library.auto_extension);
    find_in(object, "sqlite3_cancel_auto_extension", library.cancel_auto_extension);
    find_in(object, "sqlite3_log", library.log);
    dlclose(object);
    library.start = start;
    return &library;
  }
  return nullptr;
}

Library* library_for(const void* caller) {
  void* const open_v2 = real_open_v2(caller);
  if (!open_v2) return used_last;
  pthread_mutex_lock(&libraries_mutex);
  Library* library = library_with(open_v2);
  pthread_mutex_unlock(&libraries_mutex);
  return library;
}

void complain(const Library& library, const char* what) {
  if (library.log) library.log(SQLITE_WARNING, "sqlstream: %s", what);
}

/// sqlstream.so's entry point; null, with the reason in the library's log, if there is none.
Entry load_extension(const Library& library) {
  Dl_info info;
  char path[4096];
  if (!dladdr(reinterpret_cast<void*>(&load_extension), &info)) return nullptr;
  const char* slash = strrchr(info.dli_fname, '/');
  const int folder = slash ? static_cast<int>(slash - info.dli_fname + 1) : 0;
  const int length = snprintf(path, sizeof(path), "%.*ssqlstream.so", folder, info.dli_fname);
  if (length < 0 || static_cast<std::size_t>(length) >= sizeof(path)) return nullptr;
  // Local: nothing in the program is to find its symbols here.
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void* entry = handle ? dlsym(handle, "sqlite3_sqlstream_init") : nullptr;
  if (!entry) {
    const char* reason = dlerror();
    complain(library, reason ? reason : path);
  }
  return reinterpret_cast<Entry>(entry);
}

__thread Library* receiving = nullptr;
__thread Entry receiving_entry = nullptr;

/// SQLite hands its API table to automatic extensions only, when a connection is opened.
int receive_table(sqlite3* db, char**, const Api* table) {
  if (!receiving || !table || table->libversion_number() < 3035000) return SQLITE_OK;
  Library& library = *receiving;
  receiving = nullptr;
  memcpy(static_cast<void*>(&library.api), table, kTableSize);
  library.api.open = library.open;
  library.api.open16 = library.open16;
  library.api.open_v2 = library.open_v2;
  library.api.vfs_find = library.vfs_find;
  char* error = nullptr;
  const int result = receiving_entry(db, &error, &library.api);
  if (result != SQLITE_OK && error) {
    complain(library, error);
    table->free(error);
  }
  return SQLITE_OK;
}

/// Once per library, whether it worked or not. registration_mutex is held.
void register_with(Library& library) {
  library.registered = true;
  if (!library.open || !library.close || !library.auto_extension ||
      !library.cancel_auto_extension) {
    return;
  }
  registering = true;
  receiving_entry = load_extension(library);
  if (receiving_entry && library.auto_extension(receive_table) == SQLITE_OK) {
    receiving = &library;
    sqlite3* db = nullptr;
    library.open(":memory:", &db);
    library.close(db);
    receiving = nullptr;
    library.cancel_auto_extension(receive_table);
  }
  registering = false;
}

/// The library a call from `caller` was meant for, with sqlstream registered; null: none found.
Library* prepared_library(const void* caller) {
  Library* library = library_for(caller);
  if (!library || registering) return library;
  used_last = library;
  // A library's calls to itself come from the middle of its work, even of its initialisation.
  if (start_of(caller) == library->start) return library;
  pthread_mutex_lock(&registration_mutex);
  if (!library->registered) register_with(*library);
  pthread_mutex_unlock(&registration_mutex);
  return library;
}

}  // namespace

#define SQLSTREAM_INTERPOSE extern "C" __attribute__((visibility("default"), noinline))

SQLSTREAM_INTERPOSE int sqlite3_open(const char* name, sqlite3** db) {
  const Library* library = prepared_library(__builtin_return_address(0));
  if (library && library->open) return library->open(name, db);
  *db = nullptr;
  return SQLITE_ERROR;
}

SQLSTREAM_INTERPOSE int sqlite3_open16(const void* name, sqlite3** db) {
  const Library* library = prepared_library(__builtin_return_address(0));
  if (library && library->open16) return library->open16(name, db);
  *db = nullptr;
  return SQLITE_ERROR;
}

SQLSTREAM_INTERPOSE int sqlite3_open_v2(const char* name, sqlite3** db, int flags,
                                        const char* vfs) {
  const Library* library = prepared_library(__builtin_return_address(0));
  if (library && library->open_v2) return library->open_v2(name, db, flags, vfs);
  *db = nullptr;
  return SQLITE_ERROR;
}

SQLSTREAM_INTERPOSE sqlite3_vfs* sqlite3_vfs_find(const char* name) {
  const Library* library = prepared_library(__builtin_return_address(0));
  return library && library->vfs_find ? library->vfs_find(name) : nullptr;
}

SQLSTREAM_INTERPOSE int sqlite3_shutdown() {
  Library* library = library_for(__builtin_return_address(0));
  if (!library || !library->shutdown) return SQLITE_ERROR;
  pthread_mutex_lock(&registration_mutex);
  library->registered = false;
  pthread_mutex_unlock(&registration_mutex);
  return library->shutdown();
}
