#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace sqlstream::tools {

/// What a listing prints: named columns, and rows of as many cells.
class Table {
 public:
  using Cell = std::variant<std::string, std::uint64_t, std::vector<std::string>>;
  using Row = std::vector<Cell>;

  explicit Table(std::vector<std::string> columns) : columns_(std::move(columns)) {}
  void add(Row row) { rows_.push_back(std::move(row)); }

  /// A line for the columns' names and one for each row, in columns as wide as their widest cell;
  /// several texts in one cell are divided by commas.
  std::string text() const;
  /// An array of objects with the columns' names as keys.
  std::string json() const;
  /// One of them, on stdout.
  void print(bool as_json) const;

 private:
  std::vector<std::string> columns_;
  std::vector<Row> rows_;
};

}  // namespace sqlstream::tools
