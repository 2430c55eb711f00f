#pragma once

#include <exception>
#include <utility>

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace sqlstream {

namespace asio = boost::asio;

/// Runs `work` on the pool and goes on, on the coroutine's own executor, when it is done; what it
/// throws comes out here. A cancellation takes effect after it. The pool is joined before the
/// executor's context is destroyed.
template <class Work>
asio::awaitable<void> on_worker(asio::thread_pool& pool, Work& work) {
  const auto executor = co_await asio::this_coro::executor;
  std::exception_ptr error;
  auto start = [&](auto handler) {
    asio::post(pool, [&work, &error, executor, handler = std::move(handler),
                      guard = asio::make_work_guard(executor)]() mutable {
      try {
        work();
      } catch (...) {
        error = std::current_exception();
      }
      // Nothing of the executor's context is left here behind this: it may end at once.
      asio::post(executor, [handler = std::move(handler), guard = std::move(guard)]() mutable {
        std::move(handler)();
      });
    });
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start, asio::use_awaitable);
  if (error) std::rethrow_exception(error);
}

}  // namespace sqlstream
