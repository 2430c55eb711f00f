#include "tools/process.h"

#include <csignal>
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

namespace sqlstream::tools {
namespace {

// Started with one of the standard streams closed, a file would get its number, and be written to
// by whatever prints. What takes the place can be used in the other direction only, so that using
// it fails as before.
void occupy_standard_streams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0) ::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

}  // namespace

void prepare_process() {
  occupy_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  ::mallopt(M_ARENA_MAX, 2);
  ::mallopt(M_MMAP_THRESHOLD, 256 * 1024);
}

void keep_freed_memory() {
  ::mallopt(M_MMAP_THRESHOLD, 16 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 64 << 20);
}

}  // namespace sqlstream::tools
