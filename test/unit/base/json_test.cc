#include "base/json.h"

#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

using namespace sqlstream;

namespace {

std::string as_string(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

}  // namespace

TEST_CASE("what is written is what a reader of JSON reads") {
  JsonObject inner;
  CHECK(inner.text() == "{}");
  inner.add("yes", true).add("no", false);
  const std::string text = JsonObject()
                               .add("text", "a \"b\" \\ c\n\x01")
                               .add("least", INT64_MIN)
                               .add("most", UINT64_MAX)
                               .add_json("inner", inner.text())
                               .text();
  CHECK(text == R"({"text":"a \"b\" \\ c\n\u0001","least":-9223372036854775808,)"
                R"("most":18446744073709551615,"inner":{"yes":true,"no":false}})");
  CHECK(nlohmann::json::parse(text)["text"] == "a \"b\" \\ c\n\x01");
}

TEST_CASE("every byte and pair of bytes gives valid JSON; UTF-8 stays as it is") {
  for (const char* valid : {"", "\u00e9", "\u20ac", "\U0001f600", "\x7f", "\U0010ffff", "\ud7ff"}) {
    CHECK(as_string(valid) == '"' + std::string(valid) + '"');
  }
  for (const char* wrong : {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xff"}) {
    CHECK(as_string(wrong).find("\xef\xbf\xbd") != std::string::npos);
  }
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      const char bytes[] = {static_cast<char>(first), static_cast<char>(second), 'a'};
      REQUIRE(nlohmann::json::accept(as_string({bytes, sizeof bytes})));
    }
  }
}
