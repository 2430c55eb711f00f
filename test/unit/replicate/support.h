#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "capture/outbox.h"
#include "test/unit/vfs/support.h"

namespace sqlstream::testing {

/// A database that the VFS replicates to a folder, and that a plain program writes.
class Followed {
 public:
  /// The database does not exist yet; `folder`: the one in the test's own folder that it is in.
  explicit Followed(const std::string& folder = "");

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return folder_.file(name); }
  /// The last that was captured; fails the test when there is nothing.
  capture::Tail tail() const;
  bool captured_any() const;

 private:
  TempFolder folder_;
  std::string path_;
};

/// A plain connection in WAL mode, which leaves checkpoints to the test and never waits.
class Application : public Sqlite {
 public:
  explicit Application(const std::string& path);
  /// "busy|frames in the WAL|frames in the file"
  std::string checkpoint(const std::string& mode);
};

/// Waits for up to a minute, and fails the test then.
void wait_until(const std::function<bool()>& condition);

}  // namespace sqlstream::testing
