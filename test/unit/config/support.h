#pragma once

#include <map>
#include <string>

#include <doctest/doctest.h>

#include "base/error.h"
#include "config/config.h"

namespace sqlstream::config::testing {

inline Environment fake_environment(std::map<std::string, std::string> values = {}) {
  return [values = std::move(values)](const std::string& name) -> std::optional<std::string> {
    const auto found = values.find(name);
    if (found == values.end()) return std::nullopt;
    return found->second;
  };
}

/// The text of the Error that `call` throws; fails the test when it throws none.
template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  FAIL_CHECK("no error was thrown");
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace sqlstream::config::testing
