#include "tools/flags.h"

#include <doctest/doctest.h>

namespace sqlstream::tools {
namespace {

Command known(bool runs_program = false) {
  Command command;
  command.flags = {{"o", "PATH", "where to"}, {"count", "N", "how many"}, {"v", "", "say more"}};
  command.runs_program = runs_program;
  return command;
}

ParsedFlags parse(const Words& words) {
  return parse_flags(words, known());
}

TEST_CASE("flags are taken in every form of Go's, before and after the arguments") {
  for (const Words& words :
       {Words{"-o", "p", "-count", "3", "-v", "url"}, Words{"url", "-o=p", "--count=3", "--v"},
        Words{"--o", "p", "url", "-v=true", "--count", "3"},
        Words{"-o", "q", "-o", "p", "-v=0", "-count=3", "-v", "url"}}) {
    const ParsedFlags flags = parse(words);
    CHECK(flags.text("o") == "p");
    CHECK(flags.text("count") == "3");
    CHECK(flags.on("v"));
    CHECK(flags.arguments == Words{"url"});
    CHECK_FALSE(flags.help);
  }
}

TEST_CASE("a value may look like a flag, and behind two dashes all are arguments") {
  const ParsedFlags flags = parse({"-o", "-v", "--", "-count", "--"});
  CHECK(flags.text("o") == "-v");
  CHECK_FALSE(flags.on("v"));
  CHECK(flags.arguments == Words{"-count", "--"});
}

TEST_CASE("a switch can be turned off; a lone dash is an argument") {
  const ParsedFlags flags = parse({"-v=false", "-"});
  CHECK_FALSE(flags.on("v"));
  CHECK(flags.arguments == Words{"-"});
}

TEST_CASE("help is asked for with any command") {
  for (const char* word : {"-h", "--help", "-help", "--h"}) CHECK(parse({"-v", word, "x"}).help);
}

TEST_CASE("another program's command line is left as it is") {
  for (const Words& words :
       {Words{"-v", "ls", "-l", "--", "x"}, Words{"-v", "--", "ls", "-l", "--", "x"}}) {
    const ParsedFlags flags = parse_flags(words, known(true));
    CHECK(flags.on("v"));
    CHECK(flags.arguments == Words{"ls", "-l", "--", "x"});
  }
}

TEST_CASE("wrong flags are refused") {
  for (const Words& words : {Words{"-nosuch"}, Words{"-ov"}, Words{"-cou", "3"}, Words{"---v"},
                             Words{"-o"}, Words{"-v=perhaps"}, Words{"-=x"}}) {
    CAPTURE(words.front());
    CHECK_THROWS_AS(parse(words), UsageError);
  }
}

TEST_CASE("an empty value is refused") {
  for (const Words& words : {Words{"-o="}, Words{"-count", ""}, Words{"-o", "", "-o", "p"}}) {
    CHECK_THROWS_WITH_AS(parse(words), doctest::Contains("is empty: give it a value"), Error);
  }
}

TEST_CASE("one argument is one") {
  CHECK(single_argument(parse({"a"})) == "a");
  for (const Words& words : {Words{}, Words{""}, Words{"a", "b"}}) {
    CHECK_THROWS_AS(single_argument(parse(words)), Error);
  }
  CHECK_NOTHROW(refuse_arguments(parse({"-v"})));
  CHECK_THROWS_AS(refuse_arguments(parse({"a"})), Error);
}

TEST_CASE("the usage shows every flag, with its value") {
  const std::string text = usage_of("x", known());
  CHECK(text.find("  -o PATH ") != std::string::npos);
  CHECK(text.find("  -v  ") != std::string::npos);
}

TEST_CASE("text is wrapped at spaces") {
  CHECK(wrapped("one two three", 7) == "one two\nthree");
  CHECK(wrapped("undividable", 3) == "undividable");
}

}  // namespace
}  // namespace sqlstream::tools
