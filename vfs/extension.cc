// The entry points of the loadable extension sqlstream.so. SQLite finds sqlite3_extension_init by
// default, sqlite3_sqlstream_init by the file's name.
//
// Unlike in most extensions there is no global API pointer: one process may load this into several
// SQLite libraries (Python's own and apsw's, say), and each is called through its own table.

#include <exception>
#include <string>

#include "vfs/registration.h"

extern "C" {

__attribute__((visibility("default"))) int sqlite3_sqlstream_init(
    sqlite3* db, char** error, const sqlite3_api_routines* api) noexcept {
  int result = SQLITE_ERROR;
  std::string message;
  try {
    result = sqlstream::register_library(*api, db, message);
  } catch (const std::exception&) {
    result = SQLITE_NOMEM;
  }
  // Not SQLITE_OK_LOAD_PERMANENTLY, which is an error for who calls this by
  // sqlite3_auto_extension(). It is permanent as it is linked.
  if (result == SQLITE_OK) return result;
  if (error && !message.empty()) *error = api->mprintf("%s", message.c_str());
  return result;
}

__attribute__((visibility("default"))) int sqlite3_extension_init(
    sqlite3* db, char** error, const sqlite3_api_routines* api) noexcept {
  return sqlite3_sqlstream_init(db, error, api);
}

}  // extern "C"
