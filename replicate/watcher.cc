#include "replicate/watcher.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits.h>
#include <sys/inotify.h>
#include <system_error>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/error.h"

namespace sqlstream {
namespace {

constexpr auto kBurst = std::chrono::milliseconds(5);
constexpr std::uint32_t kNames = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO |
                                 IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
constexpr std::uint32_t kContent = IN_MODIFY;

}  // namespace

Watcher::Watcher(const asio::any_io_executor& executor) : events_(executor), pause_(executor) {
  const int fd = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd < 0) {
    throw Error("cannot watch files: " + std::generic_category().message(errno) +
                "; see fs.inotify.max_user_instances");
  }
  events_.assign(fd);
}

std::unique_ptr<Watcher::Subscription> Watcher::subscribe(Told told) {
  subscribers_.push_back({std::move(told), {}});
  return std::make_unique<Subscription>(*this, std::prev(subscribers_.end()));
}

Watcher::Subscription::~Subscription() {
  watcher_.set(*subscriber_, {});
  watcher_.subscribers_.erase(subscriber_);
}

void Watcher::set(Subscriber& subscriber, const std::vector<Place>& places) {
  const int fd = events_.native_handle();
  std::vector<Watched> watched;
  for (const Place& place : places) {
    const int watch = ::inotify_add_watch(fd, place.path.c_str(), place.folder ? kNames : kContent);
    if (watch >= 0) {
      watched.push_back({watch, place.folder, place.names});
    } else if (errno == ENOSPC || errno == ENOMEM) {
      throw Error("cannot watch " + place.path +
                  ": the system's limit of watches is reached; see "
                  "fs.inotify.max_user_watches");
    }
  }
  const auto before = std::exchange(subscriber.watched, std::move(watched));
  for (const Watched& old : before) {
    if (!is_watched(old.watch)) ::inotify_rm_watch(fd, old.watch);
  }
}

bool Watcher::is_watched(int watch) const {
  return std::any_of(subscribers_.begin(), subscribers_.end(), [&](const Subscriber& subscriber) {
    return std::any_of(subscriber.watched.begin(), subscriber.watched.end(),
                       [&](const Watched& watched) { return watched.watch == watch; });
  });
}

asio::awaitable<void> Watcher::run() {
  while (!stopped_) {
    const auto [error] = co_await events_.async_wait(asio::posix::descriptor_base::wait_read,
                                                     asio::as_tuple(asio::use_awaitable));
    if (error || stopped_) co_return;
    drain();
    // The kernel joins equal events that nobody has read yet.
    pause_.expires_after(kBurst);
    co_await pause_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

void Watcher::stop() {
  stopped_ = true;
  events_.cancel();
  pause_.cancel();
}

void Watcher::drain() {
  alignas(inotify_event) std::array<char, 64 * (sizeof(inotify_event) + NAME_MAX + 1)> bytes{};
  while (true) {
    const ssize_t size = ::read(events_.native_handle(), bytes.data(), bytes.size());
    if (size <= 0) return;
    for (std::size_t at = 0; at < static_cast<std::size_t>(size);) {
      inotify_event event{};
      std::memcpy(&event, &bytes[at], sizeof event);
      const char* name = &bytes[at + sizeof event];
      tell(event.wd, event.mask, event.len > 0 ? std::string(name) : std::string());
      at += sizeof event + event.len;
    }
  }
}

void Watcher::tell(int watch, std::uint32_t mask, const std::string& name) {
  const bool all = (mask & IN_Q_OVERFLOW) != 0;
  for (Subscriber& subscriber : subscribers_) {
    for (const Watched& watched : subscriber.watched) {
      if (!all && watched.watch != watch) continue;
      const bool named =
          name.empty() || watched.names.empty() ||
          std::find(watched.names.begin(), watched.names.end(), name) != watched.names.end();
      if (!named) continue;
      subscriber.told(watched.folder || all ? Change::names : Change::content);
      break;
    }
  }
}

}  // namespace sqlstream
