#include "support.h"

#include <array>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <poll.h>
#include <random>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include "base/fork.h"

namespace sqlstream::testing {

TempFolder::TempFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "sqlstream-XXXXXX").string();
  if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp failed");
  path_ = std::filesystem::canonical(name).string();
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Sqlite::Sqlite(const std::string& path, std::uint32_t page_size)
    : path_(path), db_(nullptr, sqlite3_close) {
  sqlite3* db = nullptr;
  REQUIRE(sqlite3_open(path.c_str(), &db) == SQLITE_OK);
  db_.reset(db);
  sqlite3_busy_timeout(db, 10'000);
  run("PRAGMA page_size=" + std::to_string(page_size));
  run("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF");
}

std::string Sqlite::run(const std::string& sql) {
  std::string value;
  const int result = sqlite3_exec(
      db_.get(), sql.c_str(),
      [](void* to, int, char** values, char**) {
        *static_cast<std::string*>(to) = values[0] != nullptr ? values[0] : "";
        return 0;
      },
      &value, nullptr);
  INFO(sql);
  INFO(sqlite3_errmsg(db_.get()));
  REQUIRE(result == SQLITE_OK);
  return value;
}

sqlite3_file* Sqlite::file() const {
  sqlite3_file* file = nullptr;
  sqlite3_file_control(db_.get(), "main", SQLITE_FCNTL_FILE_POINTER, &file);
  return file;
}

Bytes Sqlite::file_bytes() const {
  sqlite3_int64 size = 0;
  REQUIRE(file()->pMethods->xFileSize(file(), &size) == SQLITE_OK);
  Bytes bytes(static_cast<std::size_t>(size));
  REQUIRE(file()->pMethods->xRead(file(), bytes.data(), static_cast<int>(size), 0) == SQLITE_OK);
  return bytes;
}

Bytes Sqlite::content() const {
  sqlite3_int64 size = 0;
  unsigned char* data = sqlite3_serialize(db_.get(), "main", &size, 0);
  REQUIRE(data != nullptr);
  Bytes bytes(data, data + size);
  sqlite3_free(data);
  return bytes;
}

capture::Source Sqlite::source(UniqueFd& wal) const {
  const auto region = [this](std::size_t number) -> const volatile void* {
    volatile void* pointer = nullptr;
    file()->pMethods->xShmMap(file(), static_cast<int>(number), capture::kRegionSize, 0, &pointer);
    return pointer;
  };
  wal = UniqueFd(::open((path_ + "-wal").c_str(), O_RDONLY | O_CLOEXEC));
  capture::Source source;
  source.wal_fd = wal.get();
  if (const auto* first = region(0)) source.regions = {first};
  source.map_more = region;
  return source;
}

Bytes image_of(std::uint32_t page, std::uint32_t page_size, std::uint32_t version) {
  Bytes image(page_size);
  std::mt19937 random(page * 31 + version);
  for (auto& byte : image) byte = static_cast<std::uint8_t>(random());
  return image;
}

Child::Child(const std::function<void(const std::function<void()>& ready)>& body) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  const UniqueFd in(ends[0]);
  UniqueFd out(ends[1]);
  pid_ = ::fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    try {
      body([&] {
        if (::write(out.get(), "r", 1) != 1) ::_exit(1);
      });
      while (true) ::pause();
    } catch (...) {
    }
    ::_exit(1);
  }
  out.reset();
  char byte = 0;
  pollfd wait{in.get(), POLLIN, 0};
  REQUIRE(::poll(&wait, 1, 60'000) == 1);
  REQUIRE(::read(in.get(), &byte, 1) == 1);
}

void Child::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
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
