#include "base/scheduling.h"

#include <sched.h>

namespace sqlstream {

void interrupt_nobody() noexcept {
  if (::sched_getscheduler(0) != SCHED_OTHER) return;
  const sched_param same{};
  ::sched_setscheduler(0, SCHED_BATCH, &same);
}

}  // namespace sqlstream
