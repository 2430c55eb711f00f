#pragma once

#include <chrono>
#include <string>

#include "restore/restore.h"

namespace sqlstream::tools {

/// "45%, 120.5 MB of 267.1 MB, 12 of 35 objects, 98.1 MB/s, 2 s left". Pure.
std::string describe_progress(const RestoreProgress& progress,
                              std::chrono::duration<double> passed);

/// "120.5 MB"
std::string describe_bytes(std::uint64_t bytes);

/// Shows progress on stderr: one line kept up to date on a terminal, else a log line now and then.
class ProgressDisplay {
 public:
  explicit ProgressDisplay(std::string what);
  ~ProgressDisplay();
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  void show(const RestoreProgress& progress);
  /// Takes the line away.
  void clear();

 private:
  std::string what_;
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point begun_;
  std::chrono::steady_clock::time_point next_;
};

}  // namespace sqlstream::tools
