#pragma once

#include <csignal>
#include <string>
#include <sys/types.h>
#include <vector>

namespace sqlstream::tools {

/// Takes the signals that a supervisor may send to us and that mean the program we run: TERM, INT,
/// HUP, QUIT, USR1, USR2. They, and CHLD, are blocked in this thread and in those it starts from
/// then on, until wait() looks at them.
class ChildSignals {
 public:
  ChildSignals();
  ChildSignals(const ChildSignals&) = delete;
  ChildSignals& operator=(const ChildSignals&) = delete;

  /// Until `child` has ended, forwarding signals to it, and collecting orphans where this is a
  /// container's first process: its exit code, or 128 + signal as a shell has it.
  int wait(pid_t child) const;

  /// What was blocked before.
  const sigset_t& before() const { return before_; }

 private:
  sigset_t signals_{};
  sigset_t before_{};
};

/// Starts a program file with these words and this environment ("NAME=value"). Throws Error.
pid_t start_child(const std::string& file, std::vector<std::string> words,
                  std::vector<std::string> environment, const ChildSignals& signals);

}  // namespace sqlstream::tools
