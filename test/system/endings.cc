// A program that commits from several threads, and ends, forks or unloads SQLite as it is told:
//
//     endings EXTENSION URI HOW
//
// It prints how many rows it knows to be committed. SQLite is loaded, not linked, so that it can be
// unloaded again.

#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <sqlite3.h>

namespace {

constexpr unsigned kLongest = 100;  // seconds: what hangs is killed
constexpr int kThreads = 4;
constexpr int kRows = 150;
constexpr const char* kSqlite = "libsqlite3.so.0";

void* sqlite_library = nullptr;

#define SQLITE(name) reinterpret_cast<decltype(&(name))>(dlsym(sqlite_library, #name))

std::string uri;
std::atomic<int> committed{0};
std::atomic<bool> enough{false};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::_Exit(9);
}

class Database {
 public:
  Database() {
    constexpr int kFlags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
    if (SQLITE(sqlite3_open_v2)(uri.c_str(), &db_, kFlags, "sqlstream") != SQLITE_OK)
      fail("cannot open " + uri);
    SQLITE(sqlite3_busy_timeout)(db_, 60'000);
    run("PRAGMA synchronous=OFF; CREATE TABLE IF NOT EXISTS t(i INTEGER PRIMARY KEY, x)");
  }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  ~Database() { SQLITE(sqlite3_close)(db_); }

  void run(const char* sql) {
    if (SQLITE(sqlite3_exec)(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK)
      fail(std::string(sql) + ": " + SQLITE(sqlite3_errmsg)(db_));
  }
  void insert() {
    run("INSERT INTO t(x) VALUES (randomblob(700))");
    ++committed;
  }

 private:
  sqlite3* db_ = nullptr;
};

// Commits once more when static objects are destroyed: `first` after the extension's own exit
// handler, `last` before it. Or waits then, until the standard input ends.
struct Late {
  std::optional<Database> database;
  bool lingers = false;
  ~Late() {
    if (database) database->insert();
    if (!lingers) return;
    std::puts("at its end");
    std::fflush(stdout);
    while (std::getchar() != EOF) {
    }
  }
};
Late first;

void load(const char* extension) {
  sqlite_library = dlopen(kSqlite, RTLD_NOW);
  if (sqlite_library == nullptr) fail(dlerror());
  sqlite3* loader = nullptr;
  SQLITE(sqlite3_open)(":memory:", &loader);
  SQLITE(sqlite3_enable_load_extension)(loader, 1);
  char* error = nullptr;
  if (SQLITE(sqlite3_load_extension)(loader, extension, nullptr, &error) != SQLITE_OK) fail(error);
  SQLITE(sqlite3_close)(loader);
}

/// Threads that commit: each `rows` times, or until `enough`.
std::vector<std::thread> writers(int rows) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([rows] {
      Database own;
      for (int row = 0; row < rows && !enough; ++row) own.insert();
    });
  }
  return threads;
}

void join(std::vector<std::thread>& threads) {
  for (auto& thread : threads) thread.join();
}

void wait_for_commits(int more) {
  for (const int goal = committed + more; committed < goal;) ::usleep(1000);
}

void say() {
  std::printf("%d\n", committed.load());
  std::fflush(stdout);
}

[[noreturn]] void be_child(int kind, char** arguments) {
  ::alarm(kLongest);
  if (kind == 0) ::_exit(0);
  if (kind == 1) std::exit(0);
  if (kind == 2)
    ::execl("/proc/self/exe", arguments[0], arguments[1], arguments[2], "few", nullptr);
  while (true) ::pause();
}

/// While threads commit: children that end in both ways, one that becomes another program which
/// commits as well, and one that lives on.
void fork_many(char** arguments) {
  auto threads = writers(1'000'000);
  wait_for_commits(kRows);
  constexpr int kKinds = 4;
  for (int round = 0; round < 8; ++round) {
    std::array<pid_t, kKinds> children{};
    for (int kind = 0; kind < kKinds; ++kind) {
      const pid_t pid = ::fork();
      if (pid == 0) be_child(kind, arguments);
      children[static_cast<std::size_t>(kind)] = pid;
      wait_for_commits(5);
    }
    ::kill(children.back(), SIGKILL);
    for (const pid_t pid : children) {
      int status = -1;
      ::waitpid(pid, &status, 0);
      if (pid != children.back() && status != 0)
        fail("a child ended with " + std::to_string(status));
    }
  }
  enough = true;
  join(threads);
}

bool is_mapped(const char* name) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(name) != std::string::npos) return true;
  }
  return false;
}

bool sqlite_is_mapped() {
  return is_mapped("/libsqlite3.so");
}

/// Without the extension; else unload() would show nothing.
void check_that_sqlite_can_go() {
  void* library = dlopen(kSqlite, RTLD_NOW);
  if (library == nullptr || !sqlite_is_mapped()) fail("SQLite has another name");
  if (dlclose(library) != 0 || sqlite_is_mapped()) fail("SQLite stays anyway");
}

/// What is in the database already is being copied when SQLite is let go, and so it stays.
void unload() {
  { Database().insert(); }
  if (dlclose(sqlite_library) != 0) fail(dlerror());
  if (!sqlite_is_mapped()) fail("SQLite went");
}

/// As a program that loads the extension itself, for all of its connections.
void* load_for_all(const char* extension) {
  sqlite_library = dlopen(kSqlite, RTLD_NOW);
  void* handle = dlopen(extension, RTLD_NOW);
  if (sqlite_library == nullptr || handle == nullptr) fail(dlerror());
  SQLITE(sqlite3_auto_extension)
  (reinterpret_cast<void (*)()>(dlsym(handle, "sqlite3_sqlstream_init")));
  sqlite3* db = nullptr;
  if (SQLITE(sqlite3_open)(":memory:", &db) != SQLITE_OK ||
      SQLITE(sqlite3_errcode)(db) != SQLITE_OK)
    fail(std::string("the first connection: ") + SQLITE(sqlite3_errmsg)(db));
  SQLITE(sqlite3_close)(db);
  return handle;
}

/// With a database open, and then without one, for which it is needed again.
void unload_extension(const char* extension) {
  void* handle = load_for_all(extension);
  {
    Database own;
    own.insert();
    SQLITE(sqlite3_reset_auto_extension)();
    if (dlclose(handle) != 0) fail(dlerror());
    own.insert();
  }
  Database().insert();
  if (!is_mapped("/sqlstream.so")) fail("this shows nothing: another file was loaded");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  ::alarm(kLongest);
  uri = argv[2];
  const std::string_view how = argv[3];
  if (how == "dlclose") check_that_sqlite_can_go();
  if (how == "dlclose the extension") {
    unload_extension(argv[1]);
    say();
    return 0;
  }
  load(argv[1]);
  if (how == "few") {
    Database own;
    for (int i = 0; i < 3; ++i) own.insert();
    return 0;
  }
  if (how == "lingers") {
    first.lingers = true;
    (new Database)->insert();  // still open at the end
    return 0;
  }
  if (how == "fork") {
    fork_many(argv);
  } else if (how == "dlclose") {
    unload();
  } else if (how == "killed" || how == "going on") {
    auto* threads = new std::vector(writers(1'000'000));
    wait_for_commits(kRows);
    say();
    if (how == "killed") join(*threads);
    std::exit(0);
  } else {
    auto* database = new Database;  // still open at the end
    database->insert();
    auto threads = writers(kRows);
    join(threads);
  }
  if (how == "static") {
    static Late last;
    last.database.emplace();
    first.database.emplace();
  }
  say();
  if (how == "exit") std::exit(0);
  if (how == "_exit") ::_exit(0);
  return 0;
}
