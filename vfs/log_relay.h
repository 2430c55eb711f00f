#pragma once

#include <sqlite3.h>
#include <sqlite3ext.h>

/// Brings warnings and errors of the engine's threads to SQLite's error log (sqlite3_log) on
/// threads of the application, where SQLite's own messages come from: an application's log callback
/// may need its thread (an interpreter's lock), and must not be called once the process ends.
namespace sqlstream::log_relay {

/// Takes what is logged from now on. Lines over a bound are dropped until the next delivery. Where
/// SQLSTREAM_LOG names a file or "stderr", every line from SQLSTREAM_LOG_LEVEL on (info, when it
/// does not say) is written there as well, at once.
void install();

/// Hands on what was taken. To be called on a thread of the application, from within an SQLite
/// call; costs one load when there is nothing.
void deliver(const sqlite3_api_routines& api) noexcept;

}  // namespace sqlstream::log_relay
