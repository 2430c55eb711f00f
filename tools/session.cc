#include "tools/session.h"

#include <csignal>
#include <exception>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

namespace sqlstream::tools {

namespace {

bool is_ignored(int number) {
  struct sigaction action {};
  return ::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

void with_store(StoreSettings settings, const RemoteWork& work) {
  // Alone here: what makes a restore slow is waiting for answers.
  settings.requests = 128;
  std::exception_ptr failure;
  int signal_number = 0;
  {
    asio::io_context io(1);
    asio::thread_pool workers(2);
    const auto store = make_store(settings, io.get_executor());
    asio::cancellation_signal cancel;
    bool done = false;
    asio::signal_set signals(io);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
      if (!is_ignored(number)) signals.add(number);
    }
    signals.async_wait([&](const boost::system::error_code& error, int number) {
      if (error) return;
      signal_number = number;
      cancel.emit(asio::cancellation_type::terminal);
    });
    asio::co_spawn(
        io, work(*store, workers),
        asio::bind_cancellation_slot(cancel.slot(), [&](const std::exception_ptr& error) {
          failure = error;
          done = true;
          signals.cancel();
        }));
    // The store may keep connections, and with them work, when all is done.
    while (!done && io.run_one() > 0) {
    }
    workers.join();
  }
  if (signal_number != 0 && failure) {
    std::signal(signal_number, SIG_DFL);
    std::raise(signal_number);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace sqlstream::tools
