#include "tools/flags.h"

#include <doctest/doctest.h>

namespace sqlstream::tools {
namespace {

using Words = std::vector<std::string>;

po::options_description known() {
  po::options_description options;
  options.add_options()("o", po::value<std::string>()->value_name("PATH"), "where to")(
      "count", po::value<unsigned>()->value_name("N"), "how many")("v", switch_value(), "say more");
  return options;
}

ParsedFlags parse(const Words& words) {
  return parse_flags(words, known());
}

TEST_CASE("flags are taken in every form of Go's, before and after the arguments") {
  for (const Words& words :
       {Words{"-o", "p", "-count", "3", "-v", "url"}, Words{"url", "-o=p", "--count=3", "--v"},
        Words{"--o", "p", "url", "-v=true", "--count", "3"}}) {
    const ParsedFlags flags = parse(words);
    CHECK(flags.values["o"].as<std::string>() == "p");
    CHECK(flags.values["count"].as<unsigned>() == 3);
    CHECK(flags.on("v"));
    CHECK(flags.arguments == Words{"url"});
  }
}

TEST_CASE("a value may look like a flag, and behind two dashes all are arguments") {
  const ParsedFlags flags = parse({"-o", "-v", "--", "-count", "--"});
  CHECK(flags.values["o"].as<std::string>() == "-v");
  CHECK_FALSE(flags.has("v"));
  CHECK(flags.arguments == Words{"-count", "--"});
}

TEST_CASE("a switch can be turned off; a lone dash is an argument") {
  const ParsedFlags flags = parse({"-v=false", "-"});
  CHECK(flags.has("v"));
  CHECK_FALSE(flags.on("v"));
  CHECK(flags.arguments == Words{"-"});
}

TEST_CASE("wrong flags are refused") {
  for (const Words& words : {Words{"-nosuch"}, Words{"-ov"}, Words{"-cou", "3"}, Words{"---v"},
                             Words{"-count", "x"}, Words{"-o"}, Words{"-o="}, Words{"-v=perhaps"},
                             Words{"-o", "a", "-o", "b"}, Words{"-=x"}}) {
    CAPTURE(words.front());
    CHECK_THROWS_AS(parse(words), UsageError);
  }
}

TEST_CASE("the description shows values for flags that take one") {
  const std::string text = describe_flags(known());
  CHECK(text.find("-o PATH ") != std::string::npos);
  CHECK(text.find("-v  ") != std::string::npos);
}

}  // namespace
}  // namespace sqlstream::tools
