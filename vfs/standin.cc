// What the extension is linked with while the libraries below it do not exist: nothing is
// replicated.

#ifdef SQLSTREAM_STANDIN_CONFIG
#include "config/config.h"
namespace sqlstream::config {
Environment process_environment() {
  return {};
}
std::string canonical_path(const std::string& path) {
  return path;
}
std::optional<DatabaseSettings> settings_for(const std::string&, const std::string&,
                                             const Environment&) {
  return std::nullopt;
}
}  // namespace sqlstream::config
#endif

#ifdef SQLSTREAM_STANDIN_SHIPPER
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
#endif
