#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/workers.h"

namespace sqlstream {

/// Two threads for calls that block or compute for long, started at the first one and shared by all
/// stores of an execution context. A service of that context, since a call under way when the
/// context is destroyed has to end first. Thread-safe.
class Worker : public boost::asio::execution_context::service {
 public:
  using key_type = Worker;
  inline static boost::asio::execution_context::id id;

  explicit Worker(boost::asio::execution_context& context) : service(context) {}

  /// The one of the executor's context.
  static Worker& of(const boost::asio::any_io_executor& executor);

  /// Runs `call` on one of the threads and resumes on the awaiting coroutine's executor with what
  /// it returned (a default-constructible value) or threw. It cannot be cancelled: once begun it
  /// ends. Pass a named callable, moved: g++ 12 destroys closures that are temporaries of a
  /// co_await twice.
  template <class Call>
  boost::asio::awaitable<std::invoke_result_t<const Call&>> run(Call call) {
    namespace asio = boost::asio;
    using Result = std::invoke_result_t<const Call&>;
    // Here: Asio destroys a coroutine that waits for what could not be begun.
    auto start = [&pool = pool()](auto handler, Call work) {
      auto executor = asio::get_associated_executor(handler);
      asio::post(pool, [handler = std::move(handler), work = std::move(work),
                        guard = asio::make_work_guard(executor)]() mutable {
        std::exception_ptr failure;
        Result result{};
        try {
          const Call once = std::move(work);  // what it holds is gone before the awaiter goes on
          result = once();
        } catch (...) {
          failure = std::current_exception();
        }
        // The exception, too, is gone here before the awaiter has it.
        asio::post(guard.get_executor(),
                   [handler = std::move(handler), failure = std::move(failure),
                    result = std::move(result)]() mutable {
                     std::move(handler)(failure, std::move(result));
                   });
      });
    };
    return asio::async_initiate<const asio::use_awaitable_t<>&, void(std::exception_ptr, Result)>(
        std::move(start), asio::use_awaitable, std::move(call));
  }

 private:
  void shutdown() override;
  boost::asio::thread_pool& pool();

  std::mutex mutex_;
  std::unique_ptr<Workers> threads_;
};

}  // namespace sqlstream
