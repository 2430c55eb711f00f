#include "replicate/replication.h"

#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_future.hpp>

#include "base/error.h"

namespace sqlstream {

Replication::Replication(const std::vector<Follower::Settings>& databases)
    : watcher_(Engine::get().executor()) {
  if (!Engine::get().start()) throw Error("there are no threads to be had");
  const auto executor = Engine::get().executor();
  for (const auto& settings : databases) {
    auto& follower = followers_.emplace_back(std::make_unique<Follower>(settings, watcher_));
    ready_.push_back(follower->ready());
    ended_.push_back(asio::co_spawn(executor, follower->run(), asio::use_future));
  }
  ended_.push_back(asio::co_spawn(executor, watcher_.run(), asio::use_future));
}

Replication::~Replication() {
  if (!ended_.empty()) stop();
}

void Replication::wait_until_ready() {
  for (auto& ready : ready_) ready.get();
}

void Replication::stop() {
  asio::post(Engine::get().executor(), [this] {
    for (const auto& follower : followers_) follower->stop();
    watcher_.stop();
  });
  for (auto& ended : std::exchange(ended_, {})) ended.get();
}

}  // namespace sqlstream
