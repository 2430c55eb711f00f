#include "tools/progress.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <unistd.h>

#include "base/log.h"

namespace sqlstream::tools {

using namespace std::chrono_literals;

std::string describe_bytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits{"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

std::string describe_progress(const RestoreProgress& progress,
                              std::chrono::duration<double> passed) {
  const auto done = static_cast<double>(progress.bytes_done);
  const auto total = static_cast<double>(progress.bytes_total);
  char percent[16];
  std::snprintf(percent, sizeof percent, "%.0f%%", total > 0 ? 100 * done / total : 100);
  std::string text = percent;
  text += ", " + describe_bytes(progress.bytes_done) + " of " +
          describe_bytes(progress.bytes_total) + ", " + std::to_string(progress.objects_done) +
          " of " + std::to_string(progress.objects_total) + " objects";
  if (passed.count() <= 0 || done <= 0) return text;
  const double rate = done / passed.count();
  text += ", " + describe_bytes(static_cast<std::uint64_t>(rate)) + "/s";
  const auto left = static_cast<std::uint64_t>(std::ceil((total - done) / rate));
  text += left < 120 ? ", " + std::to_string(left) + " s left"
                     : ", " + std::to_string((left + 59) / 60) + " min left";
  return text;
}

ProgressDisplay::ProgressDisplay(std::string what)
    : what_(std::move(what)),
      terminal_(::isatty(2) == 1),
      begun_(std::chrono::steady_clock::now()),
      next_(begun_ + (terminal_ ? 200ms : 5000ms)) {}

ProgressDisplay::~ProgressDisplay() {
  clear();
}

void ProgressDisplay::show(const RestoreProgress& progress) {
  const auto time = std::chrono::steady_clock::now();
  if (time < next_) return;
  next_ = time + (terminal_ ? 100ms : 5000ms);
  const std::string text = describe_progress(progress, time - begun_);
  if (terminal_) {
    std::fprintf(stderr, "\r%s: %s\x1b[K", what_.c_str(), text.c_str());
    std::fflush(stderr);
    shown_ = true;
  } else {
    log::info(what_, {{"progress", text}});
  }
}

void ProgressDisplay::clear() {
  if (!shown_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace sqlstream::tools
