#pragma once

#include <string>

namespace sqlstream {

/// "3.40.1" for 3040001, as sqlite3_libversion_number() gives it.
std::string sqlite_version_text(int number);

/// True when SQLite of that version can corrupt a database in WAL mode: a checkpoint that runs
/// while another connection resets the WAL may leave frames out (its "WAL-reset bug", 3.7.0 to
/// 3.51.2; 3.44.6 and 3.50.7 have the fix). A distribution may have put the fix into any version.
bool has_wal_reset_bug(int number);

}  // namespace sqlstream
