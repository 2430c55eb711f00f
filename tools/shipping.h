#pragma once

#include <chrono>
#include <string>

#include "tools/flags.h"
#include "tools/sql.h"

namespace sqlstream::tools {

/// Has the VFS read the configuration as this command line says. After register_vfs(), before the
/// first database is opened.
void use_config_of(const ParsedFlags& flags);

/// Waits until all that is committed in the database is in every replica of it, whichever process
/// ships. Throws Error with how far it is when `limit` has passed.
void wait_until_shipped(SqlConnection& db, const std::string& path, std::chrono::nanoseconds limit);

/// To be called before a program ends whose wait was in vain: what is left stays in the outbox,
/// without another wait for the store. No connection may be open any more.
void give_up_shipping() noexcept;

}  // namespace sqlstream::tools
