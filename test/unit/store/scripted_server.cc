#include "test/unit/store/scripted_server.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

namespace sqlstream::test {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;

struct ScriptedServer::State {
  State(asio::io_context& c, Script s, std::shared_ptr<std::vector<Asked>> a)
      : context(c),
        acceptor(c, {asio::ip::address_v4::loopback(), 0}),
        script(std::move(s)),
        asked(std::move(a)) {}
  asio::io_context& context;
  Tcp::acceptor acceptor;
  Script script;
  std::shared_ptr<std::vector<Asked>> asked;
  int connections = 0;
  bool reads_bodies = true;
};

namespace {

ScriptedServer::Asked parse_head(std::string_view head) {
  ScriptedServer::Asked asked;
  const std::size_t line = head.find("\r\n");
  const std::string_view first = head.substr(0, line);
  asked.method = first.substr(0, first.find(' '));
  asked.target = first.substr(asked.method.size() + 1, first.rfind(' ') - asked.method.size() - 1);
  head.remove_prefix(line + 2);
  while (!head.starts_with("\r\n")) {
    const std::size_t end = head.find("\r\n");
    const std::size_t colon = head.find(": ");
    asked.headers.emplace_back(head.substr(0, colon), head.substr(colon + 2, end - colon - 2));
    head.remove_prefix(end + 2);
  }
  return asked;
}

}  // namespace

ScriptedServer::ScriptedServer(asio::io_context& context, Script script)
    : asked_(std::make_shared<std::vector<Asked>>()) {
  state_ = std::make_shared<State>(context, std::move(script), asked_);
  port_ = state_->acceptor.local_endpoint().port();
  auto serve = [](std::shared_ptr<State> state, Tcp::socket socket,
                  int connection) -> asio::awaitable<void> {
    std::string input;
    while (true) {
      const std::size_t size = co_await asio::async_read_until(socket, asio::dynamic_buffer(input),
                                                               "\r\n\r\n", asio::use_awaitable);
      Asked asked = parse_head(std::string_view(input).substr(0, size));
      asked.connection = connection;
      input.erase(0, size);
      const std::string length = asked.header("Content-Length");
      const std::size_t body = length.empty() ? 0 : std::stoul(length);
      if (input.size() < body && state->reads_bodies)
        co_await asio::async_read(socket, asio::dynamic_buffer(input),
                                  asio::transfer_exactly(body - input.size()), asio::use_awaitable);
      asked.body = input.substr(0, body);
      input.erase(0, body);
      state->asked->push_back(asked);
      const Reply reply = state->script(asked);
      if (reply.lose) co_return;
      if (reply.silent) {
        char byte = 0;
        co_await asio::async_read(socket, asio::buffer(&byte, 1), asio::use_awaitable);
        co_return;
      }
      if (reply.delay.count() > 0) {
        asio::steady_timer timer(state->context, reply.delay);
        co_await timer.async_wait(asio::use_awaitable);
      }
      std::string text = "HTTP/1.1 " + std::to_string(reply.status) + " Scripted\r\n";
      for (const auto& [name, value] : reply.headers) text += name + ": " + value + "\r\n";
      if (reply.status != 204)
        text += "Content-Length: " + std::to_string(reply.body.size()) + "\r\n";
      text += "\r\n" + reply.body;
      if (!reply.raw.empty()) text = reply.raw;
      co_await asio::async_write(socket, asio::buffer(text), asio::use_awaitable);
      if (!state->reads_bodies) {
        asio::steady_timer timer(state->context, std::chrono::milliseconds(100));
        co_await timer.async_wait(asio::use_awaitable);
      }
      if (reply.close_after || !state->reads_bodies) co_return;
    }
  };
  auto accept = [serve](std::shared_ptr<State> state) -> asio::awaitable<void> {
    while (state->acceptor.is_open()) {
      Tcp::socket socket = co_await state->acceptor.async_accept(asio::use_awaitable);
      asio::co_spawn(state->context, serve(state, std::move(socket), ++state->connections),
                     asio::detached);
    }
  };
  asio::co_spawn(context, accept(state_), asio::detached);
}

ScriptedServer::~ScriptedServer() {
  boost::system::error_code ignored;
  state_->acceptor.close(ignored);
}

void ScriptedServer::read_no_bodies() {
  state_->reads_bodies = false;
}

}  // namespace sqlstream::test
