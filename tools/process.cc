#include "tools/process.h"

#include <csignal>
#include <malloc.h>

namespace sqlstream::tools {

void prepare_process() {
  std::signal(SIGPIPE, SIG_IGN);
  ::mallopt(M_ARENA_MAX, 2);
  ::mallopt(M_MMAP_THRESHOLD, 256 * 1024);
}

}  // namespace sqlstream::tools
