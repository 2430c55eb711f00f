#include "base/scheduling.h"

#include <cstddef>
#include <fstream>
#include <functional>
#include <future>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <string>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <doctest/doctest.h>

namespace sqlstream {
namespace {

// In a process of its own, since that somebody waits holds for good. Its wait status.
int in_child(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body() ? 0 : 1);
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

// A thread of ours, and its policy.
class Ours {
 public:
  Ours() : thread_([this] { run(); }) { running_.get_future().wait(); }
  ~Ours() {
    over_.set_value();
    thread_.join();
  }
  int policy() const { return ::sched_getscheduler(id_); }

 private:
  void run() {
    const InterruptsNobody polite;
    id_ = ::gettid();
    running_.set_value();
    over_.get_future().wait();
  }

  std::promise<void> running_;
  std::promise<void> over_;
  pid_t id_ = 0;
  std::thread thread_;
};

bool can_choose() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line == "Seccomp:\t0") return ::sched_getscheduler(0) == SCHED_OTHER;
  }
  return false;
}

// As under systemd's SystemCallFilter=~@resources.
bool forbid_scheduling() {
  sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_setscheduler, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{static_cast<unsigned short>(std::size(rules)), rules};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST_CASE("threads of ours interrupt nobody, until somebody waits for them") {
  const bool can = can_choose();
  if (!can) MESSAGE("system calls are filtered, or another policy was chosen: there is no choice");
  CHECK(in_child([can] {
          const Ours one;
          Ours other;
          if (can && (one.policy() != SCHED_BATCH || other.policy() != SCHED_BATCH)) return false;
          { const Ours ended; }
          const int chosen = ::sched_getscheduler(0);
          somebody_waits();
          const Ours later;
          somebody_waits();
          return one.policy() == chosen && other.policy() == chosen && later.policy() == chosen;
        }) == 0);
}

TEST_CASE("so do those that they begin") {
  const bool can = can_choose();
  CHECK(in_child([can] {
          const int chosen = ::sched_getscheduler(0);
          std::promise<bool> right;
          std::thread([&] {
            const InterruptsNobody polite;
            const Ours begun;
            const bool batch = begun.policy() == SCHED_BATCH;
            somebody_waits();
            const Ours later;
            right.set_value(batch == can && begun.policy() == chosen && later.policy() == chosen);
          }).join();
          return right.get_future().get();
        }) == 0);
}

TEST_CASE("a child of fork() leaves the threads of its parent alone") {
  const bool can = can_choose();
  CHECK(in_child([can] {
          const Ours ours;
          if (in_child([] {
                somebody_waits();
                return true;
              }) != 0) {
            return false;
          }
          return !can || ours.policy() == SCHED_BATCH;
        }) == 0);
}

TEST_CASE("a policy that was chosen for the program stays") {
  CHECK(in_child([] {
          const sched_param none{};
          if (::sched_setscheduler(0, SCHED_IDLE, &none) != 0) return !can_choose();
          const Ours ours;
          somebody_waits();
          return ours.policy() == SCHED_IDLE;
        }) == 0);
}

TEST_CASE("so does one that is the same as ours") {
  CHECK(in_child([] {
          const sched_param none{};
          if (::sched_setscheduler(0, SCHED_BATCH, &none) != 0) return !can_choose();
          const Ours ours;
          somebody_waits();
          return ours.policy() == SCHED_BATCH;
        }) == 0);
}

TEST_CASE("where scheduling is forbidden on pain of death, it is left alone") {
  CHECK(in_child([] {
          const int before = ::sched_getscheduler(0);
          if (!forbid_scheduling()) return false;
          const Ours ours;
          somebody_waits();
          return ours.policy() == before;
        }) == 0);
  CHECK(WTERMSIG(in_child([] {
          const sched_param none{};
          return forbid_scheduling() && ::sched_setscheduler(0, SCHED_OTHER, &none) == 0;
        })) == SIGSYS);
}

TEST_CASE("nor is it undone where that was forbidden meanwhile") {
  CHECK(in_child([] {
          const Ours ours;
          if (!forbid_scheduling()) return false;
          somebody_waits();
          return true;
        }) == 0);
}

}  // namespace
}  // namespace sqlstream
