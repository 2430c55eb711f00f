#include "tools/sync_command.h"

#include "tools/shipping.h"
#include "tools/source.h"

namespace sqlstream::tools {

int sync_command(const ParsedFlags& flags) {
  using namespace std::chrono_literals;
  register_vfs();
  use_config_of(flags);
  const auto limit = duration_flag(flags, "timeout", 30s);
  const std::string path = replicated_database(flags, single_argument(flags)).path;
  try {
    SqlConnection db = open_replicated(path);
    wait_until_shipped(db, path, limit);
  } catch (const Error&) {
    give_up_shipping();
    throw;
  }
  return 0;
}

}  // namespace sqlstream::tools
