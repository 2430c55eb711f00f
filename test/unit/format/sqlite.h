#pragma once

#include <memory>
#include <string>

#include <doctest/doctest.h>
#include <sqlite3.h>

namespace sqlstream::test {

/// A connection of plain SQLite; what fails fails the test.
class Database {
 public:
  explicit Database(const std::string& path) {
    sqlite3* raw = nullptr;
    const int code = sqlite3_open(path.c_str(), &raw);
    handle_.reset(raw);
    REQUIRE(code == SQLITE_OK);
  }
  void exec(const std::string& sql) {
    char* error = nullptr;
    const int code = sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, &error);
    const std::string text = error == nullptr ? "" : error;
    sqlite3_free(error);
    CAPTURE(sql);
    CAPTURE(text);
    REQUIRE(code == SQLITE_OK);
  }
  std::string value(const std::string& sql) {
    sqlite3_stmt* statement = nullptr;
    REQUIRE(sqlite3_prepare_v2(handle_.get(), sql.c_str(), -1, &statement, nullptr) == SQLITE_OK);
    std::string text;
    if (sqlite3_step(statement) == SQLITE_ROW) {
      if (const auto* column = sqlite3_column_text(statement, 0)) {
        text = reinterpret_cast<const char*>(column);
      }
    }
    sqlite3_finalize(statement);
    return text;
  }

 private:
  struct Close {
    void operator()(sqlite3* handle) const { sqlite3_close(handle); }
  };
  std::unique_ptr<sqlite3, Close> handle_;
};

}  // namespace sqlstream::test
