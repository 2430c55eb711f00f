#pragma once

#include <functional>
#include <string>

#include <boost/asio/thread_pool.hpp>

#include "store/store.h"

namespace sqlstream::tools {

/// What a command does with a replica.
using RemoteWork = std::function<asio::awaitable<void>(Store& store, asio::thread_pool& workers)>;

/// Runs `work` on the store that the settings name, to its end. What it throws comes out here. At
/// SIGINT, SIGTERM and SIGHUP it is cancelled first, and then the process ends as that signal ends
/// it; one that is ignored, as under nohup(1), stays so.
void with_store(StoreSettings settings, const RemoteWork& work);

}  // namespace sqlstream::tools
