#include "tools/table.h"

#include <chrono>

#include <doctest/doctest.h>

#include "tools/list_command.h"

namespace sqlstream::tools {
namespace {

TEST_CASE("a table's columns are as wide as their widest cell") {
  Table table({"name", "n", "all"});
  CHECK(table.text() == "name  n  all\n");
  CHECK(table.json() == "[]\n");
  table.add({"a-long-name", std::uint64_t{12}, std::vector<std::string>{"x", "y"}});
  table.add({"b", std::uint64_t{3}, std::vector<std::string>{}});
  CHECK(table.text() ==
        "name         n   all\n"
        "a-long-name  12  x,y\n"
        "b            3   \n");
  CHECK(table.json() ==
        R"([{"name":"a-long-name","n":12,"all":["x","y"]},{"name":"b","n":3,"all":[]}])"
        "\n");
}

TEST_CASE("a character that is several bytes takes one column") {
  Table table({"path", "replicas"});
  table.add({"/b\u00fccher.db", "s3"});
  CHECK(table.text() ==
        "path        replicas\n"
        "/b\u00fccher.db  s3\n");
}

TEST_CASE("a lag has fewer digits the longer it is") {
  using namespace std::chrono_literals;
  CHECK(shown_lag(123ns) == "123ns");
  CHECK(shown_lag(1'234'567ns) == "1ms");
  CHECK(shown_lag(1'234'567'890ns) == "1.2s");
  CHECK(shown_lag(-1'234'567'890ns) == "-1.2s");
  CHECK(shown_lag(61s + 5ms) == "1m1s");
  CHECK(shown_lag(25h + 1ns) == "25h0m0s");
}

}  // namespace
}  // namespace sqlstream::tools
