#include "tools/table.h"

#include <algorithm>
#include <cstdio>

#include <nlohmann/json.hpp>

namespace sqlstream::tools {
namespace {

std::string shown(const std::string& text) {
  return text;
}

std::string shown(std::uint64_t number) {
  return std::to_string(number);
}

std::string shown(const std::vector<std::string>& texts) {
  std::string result;
  for (const auto& text : texts) result += (result.empty() ? "" : ",") + text;
  return result;
}

// As many columns of a terminal as most scripts need: one for each character of UTF-8.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

}  // namespace

std::string Table::text() const {
  std::vector<std::vector<std::string>> lines{columns_};
  for (const Row& row : rows_) {
    auto& line = lines.emplace_back();
    for (const Cell& cell : row) {
      line.push_back(std::visit([](const auto& value) { return shown(value); }, cell));
    }
  }
  std::vector<std::size_t> widths(columns_.size());
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < widths.size(); ++i)
      widths[i] = std::max(widths[i], width_of(line[i]));
  }
  std::string result;
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < widths.size(); ++i) {
      result += line[i];
      if (i + 1 < widths.size()) result.append(widths[i] + 2 - width_of(line[i]), ' ');
    }
    result += '\n';
  }
  return result;
}

std::string Table::json() const {
  auto array = nlohmann::ordered_json::array();
  for (const Row& row : rows_) {
    auto& object = array.emplace_back(nlohmann::ordered_json::object());
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      std::visit([&](const auto& value) { object[columns_[i]] = value; }, row[i]);
    }
  }
  // A path need not be UTF-8.
  return array.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}

void Table::print(bool as_json) const {
  const std::string all = as_json ? json() : text();
  std::fwrite(all.data(), 1, all.size(), stdout);
}

}  // namespace sqlstream::tools
