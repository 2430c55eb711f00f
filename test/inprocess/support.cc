#include "support.h"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <poll.h>
#include <random>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <doctest/doctest.h>

#include "base/unique_fd.h"
#include "restore/restore.h"
#include "test/unit/store/run.h"

namespace sqlstream::testing {

std::string Replicated::restore() const {
  static int number = 0;
  asio::io_context io(1);
  StoreSettings settings;
  settings.path = replica();
  const auto store = make_store(settings, io.get_executor());
  RestoreOptions options;
  options.output = file("restored-" + std::to_string(++number));
  asio::thread_pool workers(2);
  const auto result = test::run(io, sqlstream::restore(*store, options, workers, {}));
  return result.output;
}

void Replicated::expect_restored() const {
  const std::string restored = read_file(restore());
  Sqlite plain(path(), "unix", SQLITE_OPEN_READWRITE);
  plain.must("SELECT count(*) FROM sqlite_schema");
  sqlite3_int64 size = 0;
  unsigned char* data = sqlite3_serialize(plain.get(), "main", &size, 0);
  REQUIRE(data != nullptr);
  const std::string source(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
  sqlite3_free(data);
  REQUIRE(restored.size() == source.size());
  const auto page_size = std::stoul(plain.must("PRAGMA page_size"));
  for (std::size_t at = 0; at < source.size(); at += page_size) {
    if (source.compare(at, page_size, restored, at, page_size) != 0) {
      FAIL_CHECK("page " << at / page_size + 1 << " differs");
    }
  }
}

void expect_returned_commits(const std::string& uri, const std::function<int()>& restored_rows) {
  constexpr int kThreads = 8;
  constexpr int kCommits = 25;
  std::atomic<int> failures{0};
  std::atomic<int> returned{0};
  std::atomic<int> running{kThreads};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int number = 0; number < kThreads; ++number) {
    threads.emplace_back([&, number] {
      const std::unique_ptr<sqlite3, int (*)(sqlite3*)> db{open_writer(uri), sqlite3_close};
      for (int i = 0; db && i < kCommits; ++i) {
        if (number == 0 && i % 5 == 0) works(db.get(), "PRAGMA wal_checkpoint(TRUNCATE)");
        if (works(db.get(), "INSERT INTO t(x) VALUES (randomblob(200))")) ++returned;
      }
      if (!db) ++failures;
      --running;
    });
  }
  do {
    const int least = returned;
    CHECK(restored_rows() >= least);
  } while (running > 0);
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
  CHECK(returned == kThreads * kCommits);
  CHECK(restored_rows() == kThreads * kCommits);
}

Writer::Writer(const std::string& uri) : Sqlite((register_shim(), uri)) {
  REQUIRE(result() == SQLITE_OK);
  sqlite3_busy_timeout(get(), 60'000);
}

void Writer::shipped() {
  const std::string result = must("SELECT sqlstream_wait(120000)");
  if (result != "1\n") FAIL("not shipped: " << must("SELECT sqlstream_status()"));
}

bool works(sqlite3* db, const std::string& sql) {
  const int result = sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr);
  if (result == SQLITE_OK) return true;
  const bool busy = result == SQLITE_BUSY || result == SQLITE_LOCKED;
  if (!busy) ::fprintf(stderr, "%s: %s\n", sql.c_str(), sqlite3_errmsg(db));
  if (sqlite3_get_autocommit(db) == 0) sqlite3_exec(db, "ROLLBACK", nullptr, nullptr, nullptr);
  return busy;
}

sqlite3* open_writer(const std::string& uri) {
  sqlite3* db = nullptr;
  if (sqlite3_open_v2(uri.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "sqlstream") !=
      SQLITE_OK) {
    sqlite3_close(db);
    return nullptr;
  }
  sqlite3_busy_timeout(db, 60'000);
  return db;
}

pid_t start_role(const std::string& role, std::initializer_list<std::string> arguments, int* out) {
  std::vector<std::string> words = {"/proc/self/exe", "--role=" + role};
  words.insert(words.end(), arguments);
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int ends[2] = {-1, -1};
  if (out != nullptr) REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    if (out != nullptr) ::dup2(ends[1], STDOUT_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  if (out != nullptr) {
    ::close(ends[1]);
    *out = ends[0];
  }
  return pid;
}

int wait_for(pid_t pid) {
  int status = 0;
  for (int i = 0; i < 6000; ++i) {
    const pid_t ended = ::waitpid(pid, &status, WNOHANG);
    if (ended == pid) {
      return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ::kill(pid, SIGKILL);
  ::waitpid(pid, &status, 0);
  return -1;
}

std::string read_line(int fd) {
  std::string line;
  pollfd wait{fd, POLLIN, 0};
  char byte = 0;
  while (::poll(&wait, 1, 60'000) == 1 && ::read(fd, &byte, 1) == 1 && byte != '\n') line += byte;
  return line;
}

std::uint64_t test_seed() {
  static const std::uint64_t seed = [] {
    const char* given = std::getenv("SQLSTREAM_TEST_SEED");
    const std::uint64_t value =
        given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    MESSAGE("SQLSTREAM_TEST_SEED=" << value);
    return value;
  }();
  return seed;
}

}  // namespace sqlstream::testing
