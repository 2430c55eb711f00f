#pragma once

namespace sqlstream {

/// For a thread that works beside an application's: from now on, when it wakes up, it waits until a
/// processor is free or its turn comes, and does not interrupt who runs (SCHED_BATCH, sched(7)).
/// That may be a thread that has SQLite's write lock, and all others would wait with it. Its share
/// of the processors stays the same. Leaves it alone where somebody chose another policy for the
/// program, and where it is not permitted.
void interrupt_nobody() noexcept;

}  // namespace sqlstream
