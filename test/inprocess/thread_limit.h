#pragma once

namespace sqlstream::testing {

/// From now on only so many threads can be started in this process.
void limit_threads(int more);

}  // namespace sqlstream::testing
