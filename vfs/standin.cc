// What the extension is linked with while there is no shipper library: nothing is replicated.

#include "shipper/connection.h"

namespace sqlstream {

std::unique_ptr<Connection> Connection::open(const Host&, DatabaseSettings, sqlite3_file*,
                                             const char*, int) {
  return nullptr;
}
void wal_deleting(const char*) noexcept {}
void start_engine() noexcept {}
void flush_at_exit() noexcept {}

}  // namespace sqlstream
