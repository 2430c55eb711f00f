#pragma once

#include <chrono>
#include <exception>
#include <optional>
#include <stdexcept>
#include <utility>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "store/store.h"

namespace sqlstream::test {

/// Runs one coroutine to its end and gives what it returns or throws. A hang is a failure.
template <class T>
T run(asio::io_context& context, asio::awaitable<T> coroutine) {
  std::optional<T> result;
  std::exception_ptr failure;
  bool ended = false;
  asio::co_spawn(context, std::move(coroutine), [&](std::exception_ptr error, T value) {
    failure = error;
    if (!error) result.emplace(std::move(value));
    ended = true;
    context.stop();
  });
  context.restart();
  context.run_for(std::chrono::minutes(2));
  if (!ended) throw std::logic_error("the coroutine did not end");
  if (failure) std::rethrow_exception(failure);
  return std::move(*result);
}

inline void run(asio::io_context& context, asio::awaitable<void> coroutine) {
  run(context, [](asio::awaitable<void> inner) -> asio::awaitable<bool> {
    co_await std::move(inner);
    co_return true;
  }(std::move(coroutine)));
}

/// The kind of StoreError the coroutine ends with, and its text; throws when it ends well.
template <class T>
StoreError store_error(asio::io_context& context, asio::awaitable<T> coroutine) {
  try {
    (void)run(context, std::move(coroutine));
  } catch (const StoreError& error) {
    return error;
  }
  throw std::logic_error("no StoreError was thrown");
}

}  // namespace sqlstream::test
