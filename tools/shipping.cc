#include "tools/shipping.h"

#include <algorithm>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "config/units.h"
#include "shipper/engine.h"
#include "tools/source.h"
#include "vfs/shim.h"

namespace sqlstream::tools {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// What a replica that is behind says of itself.
std::string describe_replica(const nlohmann::json& replica, const std::string& wanted) {
  std::string text = "replica " + replica.value("name", "");
  if (replica.contains("sequence")) {
    text += " has " + std::to_string(replica.value("sequence", 0)) + " of " + wanted + " batches";
  } else {
    text += " is not known to have anything";  // before it was asked, too
  }
  const std::string error = replica.value("error", "");
  if (!error.empty()) text += " and says: " + error;
  return text;
}

std::string describe_status(const nlohmann::json& status) {
  if (std::string error = status.value("error", ""); !error.empty()) return error;
  std::string text;
  for (const auto& replica : status.value("replicas", nlohmann::json::array())) {
    if (replica.value("in_sync", false)) continue;
    text += (text.empty() ? "" : "; ") +
            describe_replica(replica, std::to_string(status.value("sequence", 0)));
  }
  if (text.empty()) text = "nothing is replicated now";
  return text + " (shipping: " + status.value("shipping", "none") + ")";
}

}  // namespace

void use_config_of(const ParsedFlags& flags) {
  use_settings([source = ConfigSource(flags)](const std::string& path, const std::string& replica) {
    return config::settings_for(path, replica, source.environment, source.reading);
  });
}

void wait_until_shipped(SqlConnection& db, const std::string& path,
                        std::chrono::nanoseconds limit) {
  if (db.value("PRAGMA page_count") == "0") return;  // no content, so nothing was committed
  const auto end = Clock::now() + limit;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    const std::string wait = std::to_string(std::max<std::int64_t>(left.count(), 0));
    const std::string shipped = db.value("SELECT sqlstream_wait(" + wait + ')');
    if (shipped == "1") return;
    const auto status =
        nlohmann::json::parse(db.value("SELECT sqlstream_status()"), nullptr, false);
    if (shipped.empty()) {
      throw Error(path + " is not replicated: " + status.value("reason", "see the log"));
    }
    if (status.value("state", "") == "paused") {
      throw Error(path + " is not replicated now: " + describe_status(status));
    }
    if (Clock::now() >= end) {
      throw Error(path + " was not in every replica within " + config::format_duration(limit) +
                  ": " + describe_status(status));
    }
    // Between two generations there is nothing to wait for.
    std::this_thread::sleep_for(50ms);
  }
}

void give_up_shipping() noexcept {
  Engine::stop();
}

}  // namespace sqlstream::tools
