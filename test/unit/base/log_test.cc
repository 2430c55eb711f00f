#include "base/log.h"

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace sqlstream::log {
namespace {

struct Line {
  Level level;
  std::string text;
};

// Collects what is logged while it lives; then silence again.
class Collector {
 public:
  explicit Collector(Level least = Level::info, Style style = Style::logfmt) {
    set_sink(
        [this](Level level, std::string_view text) {
          lines.push_back({level, std::string(text)});
        },
        least, style);
  }
  ~Collector() { set_sink({}); }
  std::vector<Line> lines;
};

TEST_CASE("logfmt quotes only what needs it") {
  CHECK(format_logfmt(Level::info, "shipped", {}) == "level=INFO msg=shipped");
  CHECK(format_logfmt(Level::error, "a b", {{"path", "/x/y"}, {"n", "1"}}) ==
        "level=ERROR msg=\"a b\" path=/x/y n=1");
  CHECK(format_logfmt(Level::warn, "", {{"k", "a=b"}, {"q", "\"\\"}}) ==
        "level=WARN msg=\"\" k=\"a=b\" q=\"\\\"\\\\\"");
}

TEST_CASE("a value cannot forge another line, in either style") {
  const Fields fields{{"path", "a\nlevel=ERROR msg=forged"}, {"nul", std::string("\0\x7f", 2)}};
  CHECK(format_logfmt(Level::info, "x\r\ny", fields).find_first_of(std::string("\r\n\0", 3)) ==
        std::string::npos);
  CHECK(format_json(Level::info, "x\r\ny", fields).find_first_of(std::string("\r\n\0", 3)) ==
        std::string::npos);
}

TEST_CASE("bytes that are no UTF-8 are replaced, never fatal") {
  const Fields fields{{"path", "bad \xff name"}};
  CHECK(format_logfmt(Level::info, "m", fields) ==
        "level=INFO msg=m path=\"bad \xEF\xBF\xBD name\"");
  const auto json = nlohmann::json::parse(format_json(Level::info, "m", fields));
  CHECK(json["path"] == "bad \xEF\xBF\xBD name");
}

TEST_CASE("JSON lines hold the level, the message and every field") {
  const auto json =
      nlohmann::json::parse(format_json(Level::debug, "a \"b\"", {{"k", "v"}, {"n", "1"}}));
  CHECK(json == nlohmann::json{{"level", "DEBUG"}, {"msg", "a \"b\""}, {"k", "v"}, {"n", "1"}});
}

TEST_CASE("the sink gets whole lines with a time, from its least level on") {
  Collector collector(Level::warn);
  info("too low");
  warn("first", {{"k", "v"}});
  error("second");
  REQUIRE(collector.lines.size() == 2);
  CHECK(collector.lines[0].level == Level::warn);
  CHECK(collector.lines[1].level == Level::error);
  const std::string& text = collector.lines[0].text;
  REQUIRE(text.starts_with("time="));
  const auto space = text.find(' ');
  CHECK(parse_rfc3339(text.substr(5, space - 5)).has_value());
  CHECK(text.substr(space) == " level=WARN msg=first k=v");
}

TEST_CASE("a JSON sink gets one object a line, the time in it") {
  Collector collector(Level::debug, Style::json);
  debug("m {} %s", {{"k", "v"}});
  REQUIRE(collector.lines.size() == 1);
  const auto json = nlohmann::json::parse(collector.lines[0].text);
  CHECK(parse_rfc3339(json["time"].get<std::string>()).has_value());
  CHECK(json["msg"] == "m {} %s");
  CHECK(json["level"] == "DEBUG");
  CHECK(json["k"] == "v");
}

TEST_CASE("without a sink nothing is written") {
  std::vector<std::string> lines;
  set_sink([&lines](Level, std::string_view text) { lines.emplace_back(text); });
  set_sink({});
  error("nobody hears it");
  CHECK(lines.empty());
}

TEST_CASE("lines of many threads arrive whole, none lost") {
  Collector collector;
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int n = 0; n < 500; ++n) info("line", {{"n", std::to_string(n)}});
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(collector.lines.size() == 2000);
}

TEST_CASE("a descriptor sink ends each line") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  descriptor_sink(writer.get())(Level::info, "one line");
  char buffer[32];
  const auto n = ::read(reader.get(), buffer, sizeof buffer);
  REQUIRE(n > 0);
  CHECK(std::string_view(buffer, static_cast<std::size_t>(n)) == "one line\n");
}

TEST_CASE("a descriptor that is another file's by now gets no line") {
  UniqueFd fd(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  const Sink sink = descriptor_sink(fd.get());
  const UniqueFd other(::memfd_create("other", MFD_CLOEXEC));
  REQUIRE(::dup2(other.get(), fd.get()) == fd.get());
  sink(Level::info, "not meant for it");
  CHECK(::lseek(other.get(), 0, SEEK_CUR) == 0);
  fd.reset();
  sink(Level::info, "not meant for anybody");
}

TEST_CASE("a log file whose descriptor the program closed is opened anew") {
  char folder[] = "/tmp/sqlstream-log-XXXXXX";
  REQUIRE(::mkdtemp(folder) != nullptr);
  const std::string path = std::string(folder) + "/log";
  const auto content = [](const std::string& file) {
    std::ifstream in(file);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const UniqueFd next(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int number = ::dup(next.get());  // the lowest that is free
  ::close(number);
  const Sink sink = file_sink(path);
  REQUIRE(sink);
  sink(Level::info, "one");
  ::close(number);
  const std::string other = std::string(folder) + "/database";
  const UniqueFd database(::open(other.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  REQUIRE(database.get() == number);
  sink(Level::info, "two");
  sink(Level::info, "three");
  CHECK(content(path) == "one\ntwo\nthree\n");
  CHECK(content(other).empty());
  CHECK_FALSE(file_sink(std::string(folder) + "/none/log"));
  std::filesystem::remove_all(folder);
}

TEST_CASE("a pipe that nobody reads any more ends no program") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const UniqueFd writer(ends[1]);
  ::close(ends[0]);
  descriptor_sink(writer.get())(Level::info, "one line");
  sigset_t pending;
  REQUIRE(sigpending(&pending) == 0);
  CHECK(sigismember(&pending, SIGPIPE) == 0);
}

}  // namespace
}  // namespace sqlstream::log
