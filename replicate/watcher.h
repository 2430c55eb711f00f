#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

namespace sqlstream {

namespace asio = boost::asio;

/// Tells when files change, from the kernel (inotify), for any number of databases. For the
/// engine's thread only.
class Watcher {
 public:
  /// What happened: something was written, or a name in a folder now stands for something else.
  enum class Change { content, names };
  using Told = std::function<void(Change change)>;
  /// A file (its content), or names in a folder (`names` empty: all of them).
  struct Place {
    std::string path;
    bool folder = false;
    std::vector<std::string> names = {};
  };

  /// Throws Error when the system gives no more watches.
  explicit Watcher(const asio::any_io_executor& executor);

  /// One who is told. Must be destroyed before the Watcher.
  class Subscription;
  std::unique_ptr<Subscription> subscribe(Told told);

  /// Tells what happens, until stop(). To be run once. A burst is told of every few ms, no more.
  asio::awaitable<void> run();
  void stop();

 private:
  struct Watched {
    int watch;
    bool folder;
    std::vector<std::string> names;
  };
  struct Subscriber {
    Told told;
    std::vector<Watched> watched;
  };
  void set(Subscriber& subscriber, const std::vector<Place>& places);
  bool is_watched(int watch) const;
  void drain();
  void tell(int watch, std::uint32_t mask, const std::string& name);

  asio::posix::stream_descriptor events_;
  asio::steady_timer pause_;
  bool stopped_ = false;
  std::list<Subscriber> subscribers_;
};

class Watcher::Subscription {
 public:
  Subscription(Watcher& watcher, std::list<Subscriber>::iterator subscriber)
      : watcher_(watcher), subscriber_(subscriber) {}
  ~Subscription();
  Subscription(const Subscription&) = delete;
  Subscription& operator=(const Subscription&) = delete;

  /// Watches these places from now on, as they are now, and no others: a file that takes the place
  /// of another needs a new call. What is not there is left out. Throws Error.
  void watch(const std::vector<Place>& places) { watcher_.set(*subscriber_, places); }

 private:
  Watcher& watcher_;
  std::list<Subscriber>::iterator subscriber_;
};

}  // namespace sqlstream
