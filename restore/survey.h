#pragma once

#include "restore/plan.h"
#include "restore/restore.h"
#include "store/store.h"

namespace sqlstream {

/// Finds out by listing, and by reading metadata where a moment was asked for, what a restore has
/// to read. Throws Error when there is nothing for these options. Uses options.generation, index,
/// timestamp and until.
asio::awaitable<RestorePlan> survey(Store& store, const RestoreOptions& options);

/// How far a restore by `plan` can go without its segments from `end` on.
asio::awaitable<Reach> reach_before(Store& store, const RestorePlan& plan, std::size_t end);

}  // namespace sqlstream
