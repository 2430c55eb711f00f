#include "shipper/first_restore.h"

#include <atomic>
#include <fcntl.h>
#include <filesystem>
#include <memory>
#include <string>
#include <sys/stat.h>
#include <thread>

#include <doctest/doctest.h>

#include "../capture/support.h"
#include "base/error.h"
#include "base/unique_fd.h"

using namespace sqlstream;
using namespace std::chrono_literals;

namespace {

// As another process that restores holds it: these locks belong to the descriptor.
class OtherProcess {
 public:
  explicit OtherProcess(const std::string& file)
      : fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    struct flock whole {};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    REQUIRE(::fcntl(fd_.get(), F_OFD_SETLK, &whole) == 0);
  }
  void touch() const { ::futimens(fd_.get(), nullptr); }

 private:
  UniqueFd fd_;
};

DatabaseSettings missing_database(const std::string& path) {
  DatabaseSettings settings;
  settings.path = path;
  settings.restore_if_missing = true;
  ReplicaSettings nothing;
  nothing.store.path = path + "-replica";
  settings.replicas.push_back(nothing);
  return settings;
}

}  // namespace

TEST_CASE("a restore by another process is waited for while it goes on") {
  const testing::TempFolder folder;
  const std::string path = folder.file("app.db");
  const std::string lock = folder.file(".app.db-sqlstream-restoring");
  auto other = std::make_unique<OtherProcess>(lock);
  const auto wait = [&](std::chrono::nanoseconds patience) -> std::string {
    try {
      restore_if_missing(missing_database(path), patience);
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  };

  SUBCASE("one that gets no further is given up") {
    const std::string said = wait(100ms);
    CHECK(said.find("without progress for 1 s") != std::string::npos);
    CHECK(said.find(lock) != std::string::npos);
    // What is the other's stays.
    CHECK(std::filesystem::exists(lock));
  }

  SUBCASE("one that gets further is not") {
    std::atomic<bool> over{false};
    std::thread progress([&] {
      for (int i = 0; i < 150; ++i) {
        other->touch();
        std::this_thread::sleep_for(20ms);
      }
      over = true;
      other.reset();
    });
    CHECK(wait(2s).empty());
    CHECK(over);
    progress.join();
  }
}
