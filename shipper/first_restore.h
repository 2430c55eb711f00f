#pragma once

#include <chrono>

#include "shipper/settings.h"

namespace sqlstream {

/// Restores the database at settings.path when there is none, from settings.restore_from or else
/// from the replica with the latest data; returns when it is there, or when nothing was to be
/// restored and a new one may be created. Of several callers, in any process, one restores and the
/// others wait for it, until it got no further for `patience`: then they fail. Blocks; uses the
/// engine's threads. Throws Error with one sentence when it cannot be known that there is nothing,
/// or what there is cannot be restored: then no database may be created.
void restore_if_missing(const DatabaseSettings& settings,
                        std::chrono::nanoseconds patience = std::chrono::minutes(2));

}  // namespace sqlstream
