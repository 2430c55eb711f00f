#pragma once

#include <list>
#include <memory>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

namespace sqlstream {

/// Bounds how many coroutines of one executor are somewhere at once; first come, first served. Not
/// thread-safe: used on that executor only.
class Semaphore {
  struct State;

 public:
  /// One place, given back when destroyed (which may be after the semaphore).
  class Permit {
   public:
    Permit() = default;
    explicit Permit(std::shared_ptr<State> state) : state_(std::move(state)) {}
    Permit(Permit&& other) noexcept = default;
    Permit& operator=(Permit&& other) noexcept {
      std::swap(state_, other.state_);
      return *this;
    }
    ~Permit();

   private:
    std::shared_ptr<State> state_;
  };

  Semaphore(const boost::asio::any_io_executor& executor, int places);

  /// Waits for a place. Cancelled: ends with operation_aborted.
  boost::asio::awaitable<Permit> acquire();

 private:
  std::shared_ptr<State> state_;
};

}  // namespace sqlstream
