#include "recording_connection.h"

#include <atomic>
#include <mutex>
#include <utility>

#include "shipper/connection.h"

namespace sqlstream::testing {
namespace {

std::mutex mutex;
std::vector<std::string> events;
std::atomic<void (*)(const std::string&)> observer{nullptr};
std::atomic<int> connections{0};
std::atomic<bool> all_shipped{true};
std::atomic<bool> refuse{false};
std::atomic<bool> is_outside_wal{false};
std::atomic<bool> refuses{false};

void record(std::string event) {
  if (auto* observe = observer.load()) observe(event);
  const std::lock_guard lock(mutex);
  events.push_back(std::move(event));
}

std::string file_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

class RecordingConnection : public Connection {
 public:
  explicit RecordingConnection(const std::string& path) : name_(file_name(path)) { ++connections; }
  ~RecordingConnection() override {
    --connections;
    record("closed " + name_);
  }

  void region_mapped(int region, volatile void*) noexcept override {
    record("region_mapped " + std::to_string(region));
  }
  void unmapping(bool delete_flag) noexcept override {
    record("unmapping " + std::to_string(delete_flag));
  }
  void write_lock_obtained() noexcept override { record("write_lock_obtained"); }
  void write_lock_released() noexcept override { record("write_lock_released"); }
  void reset_lock_obtained() noexcept override { record("reset_lock_obtained"); }
  void recovery_lock_obtained() noexcept override { record("recovery_lock_obtained"); }
  void checkpoint_lock_obtained() noexcept override {}
  void checkpoint_lock_releasing() noexcept override {}
  void database_writing(std::int64_t, int) noexcept override {}
  void database_truncating(std::int64_t) noexcept override {}
  void locked(int level) noexcept override { record("locked " + std::to_string(level)); }
  void unlocking(int level) noexcept override { record("unlocking " + std::to_string(level)); }
  void unlocked(int level) noexcept override { record("unlocked " + std::to_string(level)); }
  void database_written() noexcept override { record("database_written"); }
  void checkpoint_starting() noexcept override { record("checkpoint_starting"); }
  void commit_phase_two() noexcept override { record("commit_phase_two"); }
  void wal_beginning(const void*, int size) noexcept override {
    record("wal_beginning " + std::to_string(size));
  }
  void wal_emptying() noexcept override { record("wal_emptying"); }
  void wal_deleting() noexcept override { record("wal_deleting"); }
  capture::Outcome capture(bool) noexcept override { return capture::Outcome::up_to_date; }
  int enable_wal(std::chrono::milliseconds) noexcept override { return SQLITE_OK; }
  const volatile void* wal_index() noexcept override { return nullptr; }
  std::uint64_t take_ticket() noexcept override {
    record("take_ticket " + name_);
    return 1;
  }
  void wait_durable(std::uint64_t, std::chrono::milliseconds limit) noexcept override {
    record("wait_durable " + name_ + ' ' + std::to_string(limit.count() > 0));
  }
  bool outside_wal() const noexcept override { return is_outside_wal; }
  bool keeps_locks() const noexcept override { return keeps_locks_; }
  void set_keeps_locks(bool keeps) noexcept override { keeps_locks_ = keeps; }
  void check_exclusive() const override {}
  void check_journal_mode() const override {}
  bool refuses_writes() noexcept override { return refuses; }
  bool refuses_wal_writes() noexcept override { return refuses; }
  std::string status_json(bool) noexcept override { return R"({"recorded":")" + name_ + R"("})"; }
  bool wait_shipped(std::chrono::milliseconds limit) noexcept override {
    record("wait_shipped " + name_ + ' ' + std::to_string(limit.count() > 0));
    return all_shipped;
  }

 private:
  std::string name_;
  bool keeps_locks_ = false;
};

}  // namespace

std::vector<std::string> take_events() {
  const std::lock_guard lock(mutex);
  return std::exchange(events, {});
}

void set_observer(void (*o)(const std::string& event)) {
  observer = o;
}

int open_connections() {
  return connections;
}

void set_shipped(bool shipped) {
  all_shipped = shipped;
}

void set_outside_wal(bool outside) {
  is_outside_wal = outside;
}

void set_refusing_writes(bool refusing) {
  refuses = refusing;
}

void set_refusing(bool refusing) {
  refuse = refusing;
}

}  // namespace sqlstream::testing

namespace sqlstream {

std::unique_ptr<Connection> Connection::open(const Host&, DatabaseSettings settings, sqlite3_file*,
                                             const char*, int open_flags, bool,
                                             std::string& reason) {
  if (testing::refuse) {
    reason = "a test refuses";
    return nullptr;
  }
  const bool read_only = (open_flags & SQLITE_OPEN_READONLY) != 0;
  const DatabaseSettings taken = std::move(settings);
  testing::record("open " + testing::file_name(taken.path) + (read_only ? " read-only" : ""));
  return std::make_unique<testing::RecordingConnection>(taken.path);
}

void start_engine() noexcept {
  testing::record("start_engine");
}

void flush_at_exit() noexcept {}

}  // namespace sqlstream
