// doctest, or with --role=NAME one of the programs that the tests start as processes of their own.

#define DOCTEST_CONFIG_IMPLEMENT
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "support.h"

int main(int argc, char** argv) {
  constexpr std::string_view kRole = "--role=";
  if (argc > 1 && std::string_view(argv[1]).starts_with(kRole)) {
    doctest::Context context;
    context.setAsDefaultForAssertsOutOfTestCases();
    return sqlstream::testing::run_role(argv[1] + kRole.size(), {argv + 2, argv + argc});
  }
  return doctest::Context(argc, argv).run();
}
