#include "vfs/functions.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <exception>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "vfs/schemas.h"
#include "vfs/shim.h"

namespace sqlstream {
namespace {

using Api = sqlite3_api_routines;

std::array<std::atomic<const Api*>, kMaxLibraries> libraries;

void version(const Api& api, sqlite3_context* context, int, sqlite3_value**) {
  api.result_text(context, SQLSTREAM_VERSION, -1, SQLITE_STATIC);
}

void status(const Api& api, sqlite3_context* context, int count, sqlite3_value** values) {
  const char* schema =
      count > 0 ? reinterpret_cast<const char*>(api.value_text(values[0])) : "main";
  if (!schema) return;
  sqlite3* db = api.context_db_handle(context);
  const OpenDatabase* database = find_open_database(api, db, schema);
  if (!database) return;
  const bool seen = read_once(api, db, schema, *database);
  const std::string json = database->status_json(seen);
  api.result_text(context, json.data(), static_cast<int>(json.size()), SQLITE_TRANSIENT);
}

void wait(const Api& api, sqlite3_context* context, int, sqlite3_value** values) {
  using std::chrono::milliseconds;
  using Clock = std::chrono::steady_clock;
  constexpr milliseconds kPause(5);
  constexpr sqlite3_int64 kLongest = std::numeric_limits<int>::max();
  const milliseconds limit(std::clamp<sqlite3_int64>(api.value_int64(values[0]), 0, kLongest));
  const Clock::time_point end = Clock::now() + limit;

  sqlite3* db = api.context_db_handle(context);
  bool replicated = false;
  bool shipped = true;
  for (const std::string& schema : schemas_of(api, db)) {
    const OpenDatabase* database = find_open_database(api, db, schema.c_str());
    if (!database || (!database->connection && !database->failed)) continue;
    replicated = true;
    if (database->failed) {
      shipped = false;
      continue;
    }
    bool seen = read_once(api, db, schema, *database);
    while (!seen && (api.errcode(db) & 0xff) == SQLITE_BUSY && Clock::now() < end) {
      std::this_thread::sleep_for(kPause);  // another process closes the database, or vacuums it
      seen = read_once(api, db, schema, *database);
    }
    if (!seen) {
      shipped = false;
      continue;
    }
    const auto left = std::chrono::ceil<milliseconds>(end - Clock::now());
    if (!database->connection->wait_shipped(std::max(left, milliseconds(0)))) shipped = false;
  }
  if (replicated) api.result_int(context, shipped ? 1 : 0);
}

using Body = void (*)(const Api&, sqlite3_context*, int, sqlite3_value**);

/// What SQLite calls, for one body and one library.
template <Body body, std::size_t library>
void call(sqlite3_context* context, int count, sqlite3_value** values) noexcept {
  const Api& api = *libraries[library].load(std::memory_order_acquire);
  try {
    body(api, context, count, values);
  } catch (const std::exception&) {
    api.result_error_nomem(context);
  }
}

using Callback = void (*)(sqlite3_context*, int, sqlite3_value**);
using Callbacks = std::array<Callback, kMaxLibraries>;

template <Body body, std::size_t... library>
constexpr Callbacks make_callbacks(std::index_sequence<library...>) {
  return {&call<body, library>...};
}
template <Body body>
constexpr Callbacks callbacks = make_callbacks<body>(std::make_index_sequence<kMaxLibraries>());

}  // namespace

int register_functions(std::size_t library, const Api& api, sqlite3* db) noexcept {
  libraries[library].store(&api, std::memory_order_release);
  // DIRECTONLY: no schema or trigger of a foreign database file gets to call these.
  constexpr int kDirect = SQLITE_UTF8 | SQLITE_DIRECTONLY;
  const struct {
    const char* name;
    int arguments;
    int flags;
    Callback callback;
  } functions[] = {
      {"sqlstream_version", 0, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
       callbacks<version>[library]},
      {"sqlstream_status", 0, kDirect, callbacks<status>[library]},
      {"sqlstream_status", 1, kDirect, callbacks<status>[library]},
      {"sqlstream_wait", 1, kDirect, callbacks<wait>[library]},
  };
  for (const auto& f : functions) {
    const int result = api.create_function_v2(db, f.name, f.arguments, f.flags, nullptr, f.callback,
                                              nullptr, nullptr, nullptr);
    if (result != SQLITE_OK) return result;
  }
  return SQLITE_OK;
}

}  // namespace sqlstream
