#pragma once

#include <concepts>
#include <string>
#include <string_view>

namespace sqlstream {

/// Appends `text` as a JSON string, with its quotes; bytes that are no UTF-8 as U+FFFD.
void append_json_string(std::string& out, std::string_view text);

/// Writes a JSON object, compact, its keys in the order they are added. Instead of nlohmann::json,
/// whose values end the process when there is no memory: this throws std::bad_alloc.
class JsonObject {
 public:
  JsonObject& add(std::string_view key, std::string_view value);
  JsonObject& add(std::string_view key, const char* value) {
    return add(key, std::string_view(value));
  }
  JsonObject& add(std::string_view key, bool value) {
    return add_json(key, value ? "true" : "false");
  }
  template <std::integral Integer>
  JsonObject& add(std::string_view key, Integer value) {
    return add_json(key, std::to_string(value));
  }
  /// `json`: a value, as text.
  JsonObject& add_json(std::string_view key, std::string_view json);

  std::string text() const { return text_ + '}'; }

 private:
  std::string text_ = "{";
};

}  // namespace sqlstream
