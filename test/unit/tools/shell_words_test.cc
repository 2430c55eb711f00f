#include "tools/shell_words.h"

#include <doctest/doctest.h>

#include "base/error.h"

namespace sqlstream::tools {
namespace {

using Words = std::vector<std::string>;

TEST_CASE("a command line is taken apart at blanks") {
  CHECK(shell_words("").empty());
  CHECK(shell_words(" \t\n").empty());
  CHECK(shell_words("  app --port\t8080\n") == Words{"app", "--port", "8080"});
}

TEST_CASE("quotes and backslashes are the shell's, and nothing is expanded") {
  CHECK(shell_words(R"(sh -c 'echo "$HOME" \n; exit 3')") ==
        Words{"sh", "-c", R"(echo "$HOME" \n; exit 3)"});
  CHECK(shell_words(R"("a \"b\" \\ \$c \d" e\ f\\)") == Words{R"(a "b" \ $c \d)", R"(e f\)"});
  CHECK(shell_words(R"(a'b'"c"\d '' "")") == Words{"abcd", "", ""});
  CHECK(shell_words("* ~ $X `y` a;b # c") == Words{"*", "~", "$X", "`y`", "a;b", "#", "c"});
}

TEST_CASE("a quote without its end is refused") {
  for (const char* line : {"a 'b", "a \"b", "a \\", "\"a\\", "\"a\\\""}) {
    CHECK_THROWS_AS(shell_words(line), Error);
  }
}

}  // namespace
}  // namespace sqlstream::tools
