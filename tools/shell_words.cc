#include "tools/shell_words.h"

#include "base/error.h"

namespace sqlstream::tools {
namespace {

class Splitter {
 public:
  explicit Splitter(std::string_view line) : line_(line) {}

  std::vector<std::string> split() {
    while (at_ < line_.size()) take(line_[at_++]);
    end_word();
    return std::move(words_);
  }

 private:
  void take(char c) {
    if (c == ' ' || c == '\t' || c == '\n') return end_word();
    in_word_ = true;
    if (c == '\'') {
      while ((c = next()) != '\'') word_ += c;
    } else if (c == '"') {
      while ((c = next()) != '"') word_ += c == '\\' ? escaped_in_quotes() : std::string(1, c);
    } else if (c == '\\') {
      word_ += next();
    } else {
      word_ += c;
    }
  }

  std::string escaped_in_quotes() {
    const char c = next();
    const bool special = c == '"' || c == '\\' || c == '$' || c == '`';
    return special ? std::string(1, c) : std::string{'\\', c};
  }

  char next() {
    if (at_ == line_.size()) {
      throw Error("the command ends within a quote or behind a backslash: " + std::string(line_));
    }
    return line_[at_++];
  }

  void end_word() {
    if (in_word_) words_.push_back(std::move(word_));
    word_.clear();
    in_word_ = false;
  }

  std::string_view line_;
  std::size_t at_ = 0;
  std::vector<std::string> words_;
  std::string word_;
  bool in_word_ = false;
};

}  // namespace

std::vector<std::string> shell_words(std::string_view line) {
  return Splitter(line).split();
}

}  // namespace sqlstream::tools
