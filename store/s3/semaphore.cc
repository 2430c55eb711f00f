#include "store/s3/semaphore.h"

#include <boost/asio/error.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

namespace sqlstream {

namespace asio = boost::asio;

struct Semaphore::State {
  struct Waiter {
    explicit Waiter(const asio::any_io_executor& executor)
        : timer(executor, asio::steady_timer::time_point::max()) {}
    asio::steady_timer timer;  // cancelled to wake it
    bool granted = false;
  };

  State(const asio::any_io_executor& e, int places) : executor(e), free(places) {}

  void release() {
    if (waiters.empty()) {
      ++free;
      return;
    }
    Waiter* first = waiters.front();
    waiters.pop_front();
    first->granted = true;
    first->timer.cancel();
  }

  asio::any_io_executor executor;
  int free;
  std::list<Waiter*> waiters;
};

Semaphore::Permit::~Permit() {
  if (state_) state_->release();
}

Semaphore::Semaphore(const asio::any_io_executor& executor, int places)
    : state_(std::make_shared<State>(executor, places)) {}

asio::awaitable<Semaphore::Permit> Semaphore::acquire() {
  const std::shared_ptr<State> state = state_;
  if (state->free > 0) {
    --state->free;
    co_return Permit(state);
  }
  // Leaves the queue however the coroutine ends; a place granted to one that was cancelled goes on.
  struct Queued {
    Queued(std::shared_ptr<State> s) : state(std::move(s)), waiter(state->executor) {
      state->waiters.push_back(&waiter);
    }
    ~Queued() {
      if (!waiter.granted) {
        state->waiters.remove(&waiter);
      } else if (!taken) {
        state->release();
      }
    }
    std::shared_ptr<State> state;
    State::Waiter waiter;
    bool taken = false;
  };
  Queued queued(state);
  boost::system::error_code ignored;
  auto token = asio::redirect_error(asio::use_awaitable, ignored);
  co_await queued.waiter.timer.async_wait(token);
  if (!queued.waiter.granted) throw boost::system::system_error(asio::error::operation_aborted);
  queued.taken = true;
  co_return Permit(state);
}

}  // namespace sqlstream
