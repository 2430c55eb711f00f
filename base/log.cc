#include "base/log.h"

#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <memory>
#include <mutex>
#include <optional>
#include <sys/stat.h>
#include <unistd.h>

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include "base/clock.h"
#include "base/fork.h"
#include "base/json.h"
#include "base/signals.h"
#include "base/unique_fd.h"

namespace sqlstream::log {
namespace {

// Hands spdlog's already formatted lines to our sink; its mutex orders the lines.
class ForwardingSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit ForwardingSink(Sink sink) : sink_(std::move(sink)) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& msg) override {
    const auto level = msg.level >= spdlog::level::err    ? Level::error
                       : msg.level == spdlog::level::warn ? Level::warn
                       : msg.level == spdlog::level::info ? Level::info
                                                          : Level::debug;
    sink_(level, {msg.payload.data(), msg.payload.size()});
  }
  void flush_() override {}

 private:
  Sink sink_;
};

struct State {
  Sink sink;
  Level least = Level::info;
  Style style = Style::logfmt;
  std::shared_ptr<spdlog::logger> logger;
  std::uint64_t epoch = 0;  // of the process that made it; see current_state()
  // States are never freed: other threads may log with one while the next is set, or while the
  // process ends. There are only a few; each keeps the one it replaced, so that none is lost.
  const State* replaced = nullptr;
};

std::atomic<const State*> current{nullptr};

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warn:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::string_view name(Level level) {
  switch (level) {
    case Level::debug:
      return "DEBUG";
    case Level::info:
      return "INFO";
    case Level::warn:
      return "WARN";
    case Level::error:
      return "ERROR";
  }
  return "ERROR";
}

bool needs_quotes(std::string_view value) {
  if (value.empty()) return true;
  for (const char c : value) {
    if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7f) return true;
  }
  return false;
}

void append_value(std::string& line, std::string_view value) {
  if (!needs_quotes(value)) {
    line += value;
    return;
  }
  append_json_string(line, value);  // JSON's escapes are those of logfmt
}

}  // namespace

std::string format_logfmt(Level level, std::string_view message, const Fields& fields) {
  std::string line = "level=";
  line += name(level);
  line += " msg=";
  append_value(line, message);
  for (const auto& [key, value] : fields) {
    line += ' ';
    line += key;
    line += '=';
    append_value(line, value);
  }
  return line;
}

std::string format_json(Level level, std::string_view message, const Fields& fields) {
  JsonObject object;
  object.add("level", name(level)).add("msg", message);
  for (const auto& [key, value] : fields) object.add(key, value);
  return object.text();
}

void set_sink(Sink sink, Level least, Style style) {
  watch_forks();
  auto* state = new State{std::move(sink), least, style, nullptr, fork_epoch(), current.load()};
  if (state->sink) {
    state->logger = std::make_shared<spdlog::logger>("sqlstream",
                                                     std::make_shared<ForwardingSink>(state->sink));
    state->logger->set_level(to_spdlog(least));
    state->logger->set_pattern("%v");
    state->logger->set_error_handler([](const std::string&) {});  // else it prints to stderr
  }
  while (!current.compare_exchange_weak(state->replaced, state)) {
  }
}

namespace {

// In a child of fork() made anew: a thread of the parent may have been writing a line, and its
// logger's lock stays locked in the child.
const State* current_state() {
  const State* state = current.load();
  if (state == nullptr || state->epoch == fork_epoch()) return state;
  set_sink(state->sink, state->least, state->style);
  return current.load();
}

void write_line(int fd, std::string_view line) {
  std::string text(line);
  text += '\n';
  // A log that cannot be written must not disturb anyone.
  WriteSignalHeld pipe(SIGPIPE);
  WriteSignalHeld too_large(SIGXFSZ);
  if (::write(fd, text.data(), text.size()) >= 0) return;
  if (errno == EPIPE) pipe.take();
  if (errno == EFBIG) too_large.take();
}

// What a number stood for, to be told from what it stands for now.
class Identity {
 public:
  explicit Identity(int fd) { known_ = ::fstat(fd, &file_) == 0; }
  bool is(int fd) const {
    struct stat now {};
    return known_ && ::fstat(fd, &now) == 0 && now.st_dev == file_.st_dev &&
           now.st_ino == file_.st_ino;
  }

 private:
  struct stat file_ {};
  bool known_ = false;
};

class File {
 public:
  explicit File(std::string path) : path_(std::move(path)) {}
  /// False: it cannot be opened now.
  bool open() {
    if (opened_ && opened_->is(fd_)) return true;
    // The number is not ours any more, so it is not ours to close.
    fd_ = above_standard(
        ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600));
    opened_.reset();
    if (fd_ >= 0) opened_.emplace(fd_);
    return fd_ >= 0;
  }
  void write(std::string_view line) {
    if (open()) write_line(fd_, line);
  }

 private:
  std::string path_;
  int fd_ = -1;
  std::optional<Identity> opened_;
};

}  // namespace

Sink descriptor_sink(int fd) {
  return [fd, given = Identity(fd)](Level, std::string_view line) {
    if (given.is(fd)) write_line(fd, line);
  };
}

Sink file_sink(const std::string& path) {
  auto file = std::make_shared<File>(path);
  if (!file->open()) return {};
  return [file](Level, std::string_view line) { file->write(line); };
}

void write(Level level, std::string_view message, const Fields& fields) try {
  const State* state = current_state();
  if (state == nullptr || !state->logger || !state->logger->should_log(to_spdlog(level))) return;
  std::string line;
  const std::string time = format_rfc3339(now());
  if (state->style == Style::json) {
    line = "{\"time\":\"" + time + "\"," + format_json(level, message, fields).substr(1);
  } else {
    line = "time=" + time + ' ' + format_logfmt(level, message, fields);
  }
  state->logger->log(to_spdlog(level), spdlog::string_view_t(line.data(), line.size()));
} catch (const std::bad_alloc&) {
  // A line less.
}

}  // namespace sqlstream::log
