#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Structured log lines: a message and key=value fields. Thread-safe. Nothing is written until a
/// sink is set: as a guest in another program, silence is the default. Never pass a secret as a
/// value.
namespace sqlstream::log {

enum class Level { debug, info, warn, error };
enum class Style { logfmt, json };
using Fields = std::vector<std::pair<std::string_view, std::string>>;

/// Receives whole lines, without the line end.
using Sink = std::function<void(Level, std::string_view line)>;

/// Replaces the sink; an empty one means silence.
void set_sink(Sink sink, Level least = Level::info, Style style = Style::logfmt);

/// A sink that appends lines to a descriptor (2 for stderr); the descriptor stays the caller's.
/// Once it is closed, or is another file's, as in a program that became a daemon, lines are
/// dropped.
Sink descriptor_sink(int fd);
/// A sink that appends lines to a file, which is created for its owner alone. A program may close
/// the descriptor without knowing of it, and the number then be another file's, perhaps a
/// database's: each line looks, and opens the file anew. Empty where it cannot be opened now.
Sink file_sink(const std::string& path);

/// Writes a line, unless there is no memory for it.
void write(Level level, std::string_view message, const Fields& fields = {});

inline void debug(std::string_view m, const Fields& f = {}) {
  write(Level::debug, m, f);
}
inline void info(std::string_view m, const Fields& f = {}) {
  write(Level::info, m, f);
}
inline void warn(std::string_view m, const Fields& f = {}) {
  write(Level::warn, m, f);
}
inline void error(std::string_view m, const Fields& f = {}) {
  write(Level::error, m, f);
}

/// One logfmt line, "level=info msg=\"…\" key=value": the pure part, for tests.
std::string format_logfmt(Level level, std::string_view message, const Fields& fields);

/// The same as one JSON object.
std::string format_json(Level level, std::string_view message, const Fields& fields);

}  // namespace sqlstream::log
