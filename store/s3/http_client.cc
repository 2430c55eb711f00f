#include "store/s3/http_client.h"

#include <exception>
#include <fcntl.h>
#include <map>
#include <new>
#include <optional>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/flat_stream.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/span_body.hpp>
#include <boost/beast/http/vector_body.hpp>
#include <boost/beast/http/write.hpp>

#include "base/signals.h"
#include "base/unique_fd.h"
#include "store/s3/crypto.h"
#include "store/s3/semaphore.h"
#include "store/worker.h"

// The only file that includes Beast, which takes the compiler long.

namespace sqlstream::http {
namespace {

namespace beast = boost::beast;
namespace ssl = asio::ssl;
using boost::system::error_code;
using Tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kIdlePerOrigin = 16;
// Firewalls and NAT forget idle connections silently; a fresh one is cheaper than a timeout.
constexpr std::chrono::seconds kLongestIdle{60};
// Without a byte moved for so long the connection counts as lost.
constexpr std::chrono::seconds kStall{30};
// Of answers that are larger.
constexpr std::size_t kReadAtOnce = 64 << 10;
// What is read ahead; Beast waits for the end of a chunk's line, or of a trailer, as long as it
// fits.
constexpr std::size_t kMostAhead = 256 << 10;
// Before an answer there may be some that are none yet (RFC 9110, 15.2).
constexpr int kMostInterim = 8;

/// The error of an asynchronous step; cancellation passes as itself.
void check_cancelled(const error_code& error) {
  if (error == asio::error::operation_aborted) throw boost::system::system_error(error);
}

std::string text_of(const error_code& error) {
  if (error == beast::error::timeout) return "timed out";
  if (error == beast::http::error::end_of_stream || error == asio::error::eof ||
      error == ssl::error::stream_truncated)
    return "the connection was closed";
  return error.message();
}

/// What OpenSSL refuses only when it has no memory. Unchecked, a name might not be verified, and
/// Asio takes no error for success.
void must(bool done) {
  if (!done)
    throw Failure(
        Failure::Kind::unreachable,
        "OpenSSL has no memory for a connection (what it lacked for its first one it never "
        "asks for again: then the program must be started anew)");
}

// As beast::ssl_stream, which cannot be made of an SSL that is known to be there.
using TlsStream = beast::flat_stream<ssl::stream<beast::tcp_stream>>;

/// One connection and what was read ahead on it.
struct Connection {
  explicit Connection(const asio::any_io_executor& executor) : plain(executor) {}

  beast::tcp_stream plain;  // moved into `tls` when that is set
  std::optional<TlsStream> tls;
  beast::flat_buffer buffer{kMostAhead};
  Clock::time_point idle_since;

  beast::tcp_stream& tcp() { return tls ? beast::get_lowest_layer(*tls) : plain; }

  /// Nothing is left of what was read: it would be taken for the next answer.
  bool is_read_up() {
    return buffer.size() == 0 && (!tls || SSL_pending(tls->next_layer().native_handle()) == 0);
  }

  /// False when the peer has closed it or said something unasked.
  bool alive() {
    char byte = 0;
    const auto n = ::recv(tcp().socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }
};

/// What the connections of one origin share.
struct Pool {
  Pool(const asio::any_io_executor& executor, unsigned requests)
      : places(executor, static_cast<int>(requests)) {}
  Semaphore places;
  std::vector<std::unique_ptr<Connection>> idle;  // the most recently used last
};

/// A step that failed, before it is known what that means.
struct Exchange {
  std::optional<Response> response;
  error_code error;
  bool answer_began = false;
};

using Parser = beast::http::response_parser<beast::http::vector_body<std::uint8_t>>;

bool is_interim(const Parser& parser) {
  const unsigned status = parser.get().result_int();
  return status / 100 == 1 && status != 101;
}

template <class Stream>
asio::awaitable<Exchange> exchange(Stream& stream, Connection& connection, const Request& request,
                                   bool through_proxy) {
  Exchange result;
  auto token = asio::redirect_error(asio::use_awaitable, result.error);
  beast::tcp_stream& tcp = connection.tcp();

  beast::http::request<beast::http::span_body<const std::uint8_t>> message;
  message.method_string(request.method);
  // A proxy is asked for the whole URL.
  message.target(through_proxy ? request.origin.str() + request.target() : request.target());
  message.set(beast::http::field::host, request.origin.authority());
  for (const auto& [name, value] : request.headers) message.insert(name, value);
  message.body() = {request.body.data(), request.body.size()};
  if (!request.body.empty() || request.method == "PUT" || request.method == "POST")
    message.content_length(request.body.size());

  beast::http::request_serializer<beast::http::span_body<const std::uint8_t>> serializer(message);
  while (!serializer.is_done()) {
    tcp.expires_after(kStall);
    co_await beast::http::async_write_some(stream, serializer, token);
    check_cancelled(result.error);
    if (result.error) break;  // the server may have answered early and stopped listening
  }
  const error_code write_error = std::exchange(result.error, {});

  std::optional<Parser> parser;
  tcp.expires_after(write_error ? std::chrono::milliseconds(1000) : request.answer_timeout);
  for (int interim = 0; !parser || (is_interim(*parser) && interim < kMostInterim); ++interim) {
    parser.emplace();
    parser->body_limit(request.answer_limit);
    parser->skip(request.method == "HEAD");
    while (!parser->is_done() && !result.error) {
      const std::size_t n =
          co_await beast::http::async_read_some(stream, connection.buffer, *parser, token);
      check_cancelled(result.error);
      if (n > 0 || parser->got_some()) result.answer_began = true;
      if (result.error) break;
      // Beast reads as much at once as the buffer has room for, and 512 bytes where that is none.
      if (parser->is_header_done() && parser->content_length_remaining().value_or(0) > kReadAtOnce)
        connection.buffer.reserve(kReadAtOnce);
      if (!is_interim(*parser)) tcp.expires_after(kStall);
    }
    if (result.error) break;
  }
  tcp.expires_never();
  if (result.error) {
    if (write_error) result.error = write_error;
    co_return result;
  }

  const bool interim = is_interim(*parser);
  if (write_error && parser->get().result_int() / 100 == 2) {
    result.error = write_error;  // it has not got what it says it has
    co_return result;
  }
  auto answer = parser->release();
  Response response;
  response.status = static_cast<int>(answer.result_int());
  for (const auto& field : answer)
    response.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  response.body = std::move(answer.body());
  result.response = std::move(response);
  // A connection is fit for another request only when this one went through whole; and behind a
  // balancer another one may reach a server that is well.
  const bool is_sick = answer.result_int() >= 500;
  if (write_error || interim || is_sick || answer.need_eof() || !answer.keep_alive()) tcp.close();
  co_return result;
}

}  // namespace

struct Client::Impl {
  Impl(asio::any_io_executor e, ClientSettings s)
      : executor(std::move(e)), settings(std::move(s)) {}

  /// Made at first use: reading the system's certificates takes time and memory.
  ssl::context& tls_context() {
    if (!context) context.emplace(make_context());
    return *context;
  }

  ssl::context make_context() const {
    crypto::initialise();
    SSL_CTX* const handle = SSL_CTX_new(TLS_client_method());
    must(handle != nullptr);
    ssl::context made(handle);
    made.set_options(ssl::context::no_compression);
    must(SSL_CTX_set_min_proto_version(handle, TLS1_2_VERSION) == 1);
    SSL_CTX_set_mode(made.native_handle(), SSL_MODE_RELEASE_BUFFERS);
    if (settings.skip_verify) {
      made.set_verify_mode(ssl::verify_none);
      return made;
    }
    made.set_verify_mode(ssl::verify_peer);
    error_code error;
    if (settings.ca_file.empty()) {
      made.set_default_verify_paths(error);
    } else {
      made.load_verify_file(settings.ca_file, error);
    }
    if (error)
      throw Failure(Failure::Kind::untrusted,
                    "no certificates can be read from " +
                        (settings.ca_file.empty() ? "the system's store" : settings.ca_file) +
                        " (" + error.message() + ")");
    return made;
  }

  Pool& pool_of(const Origin& origin) {
    return pools.try_emplace(origin, executor, settings.requests).first->second;
  }

  /// A connection that can be used again, if any. Those that are too old are closed, of all
  /// origins; whether one was closed by its peer is only asked where it matters: that is a system
  /// call.
  std::unique_ptr<Connection> take_idle(Pool& wanted) {
    const auto oldest = Clock::now() - kLongestIdle;
    for (auto& entry : pools) {
      std::erase_if(entry.second.idle, [oldest](const std::unique_ptr<Connection>& connection) {
        return connection->idle_since < oldest;
      });
    }
    while (!wanted.idle.empty()) {
      auto connection = std::move(wanted.idle.back());
      wanted.idle.pop_back();
      if (connection->alive()) return connection;
    }
    return nullptr;
  }

  void put_back(Pool& pool, std::unique_ptr<Connection> connection) {
    if (!connection->tcp().socket().is_open() || pool.idle.size() >= kIdlePerOrigin ||
        !connection->is_read_up()) {
      return;
    }
    connection->idle_since = Clock::now();
    pool.idle.push_back(std::move(connection));
  }

  asio::awaitable<std::vector<Tcp::endpoint>> resolve(const Origin& origin) {
    std::vector<Tcp::endpoint> endpoints;
    error_code error;
    const auto address = asio::ip::make_address(origin.host, error);
    if (!error) {
      endpoints.emplace_back(address, origin.port);
      co_return endpoints;
    }
    // RFC 6761: such names are this machine's own, whether or not the resolver knows it.
    if (origin.host == "localhost" || origin.host.ends_with(".localhost")) {
      endpoints.emplace_back(asio::ip::address_v4::loopback(), origin.port);
      endpoints.emplace_back(asio::ip::address_v6::loopback(), origin.port);
      co_return endpoints;
    }
    Tcp::resolver resolver(executor);
    // The first resolution starts asio's resolver thread, hence the signals.
    auto start = [&resolver](auto handler, const std::string& host, const std::string& port) {
      const SignalsBlocked blocked;
      resolver.async_resolve(host, port, Tcp::resolver::numeric_service, std::move(handler));
    };
    auto token = asio::redirect_error(asio::use_awaitable, error);
    const std::string port = std::to_string(origin.port);
    const Tcp::resolver::results_type results =
        co_await asio::async_initiate<decltype(token),
                                      void(error_code, Tcp::resolver::results_type)>(
            start, token, std::cref(origin.host), std::cref(port));
    check_cancelled(error);
    if (error == asio::error::host_not_found || error == asio::error::no_data)
      throw Failure(Failure::Kind::name_unknown, "the host name " + origin.host + " is unknown");
    if (error)
      throw Failure(Failure::Kind::unreachable,
                    "the host name " + origin.host + " cannot be looked up now: " + text_of(error));
    for (const auto& entry : results) endpoints.push_back(entry.endpoint());
    co_return endpoints;
  }

  asio::awaitable<void> connect_tcp(Connection& connection, const Origin& origin,
                                    std::chrono::milliseconds timeout) {
    const std::vector<Tcp::endpoint> endpoints = co_await resolve(origin);
    error_code error = asio::error::host_not_found;
    auto token = asio::redirect_error(asio::use_awaitable, error);
    for (const Tcp::endpoint& endpoint : endpoints) {
      // asio's own open() leaves the descriptor to programs that the host executes.
      const int fd =
          above_standard(::socket(endpoint.protocol().family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (fd < 0) {
        error.assign(errno, boost::system::system_category());
        continue;
      }
      auto& socket = connection.plain.socket();
      socket.close(error);
      socket.assign(endpoint.protocol(), fd, error);
      if (error) {
        ::close(fd);
        continue;
      }
      connection.plain.expires_after(timeout);
      co_await connection.plain.async_connect(endpoint, token);
      check_cancelled(error);
      if (!error) {
        socket.set_option(Tcp::no_delay(true), error);
        connection.plain.expires_never();
        co_return;
      }
    }
    const int reason = error.value();
    throw Failure(reason == EMFILE || reason == ENFILE ? Failure::Kind::no_socket
                                                       : Failure::Kind::unreachable,
                  "no connection to " + origin.str() + ": " + text_of(error));
  }

  /// Asks the proxy for a tunnel to the origin.
  static asio::awaitable<void> open_tunnel(Connection& connection, const Origin& origin,
                                           const Url& proxy, std::chrono::milliseconds timeout) {
    error_code error;
    auto token = asio::redirect_error(asio::use_awaitable, error);
    Origin spelled = origin;
    spelled.tls = false;  // CONNECT always names the port
    const std::string target = spelled.authority() + (origin.port == 80 ? ":80" : "");
    beast::http::request<beast::http::empty_body> message(beast::http::verb::connect, target, 11);
    message.set(beast::http::field::host, target);
    if (!proxy.user_info.empty())
      message.set(beast::http::field::proxy_authorization,
                  "Basic " + crypto::base64(as_bytes(proxy.user_info)));
    connection.plain.expires_after(timeout);
    co_await beast::http::async_write(connection.plain, message, token);
    check_cancelled(error);
    beast::http::response_parser<beast::http::empty_body> parser;
    parser.skip(true);
    if (!error) {
      co_await beast::http::async_read_header(connection.plain, connection.buffer, parser, token);
      check_cancelled(error);
    }
    connection.plain.expires_never();
    const std::string what = "the proxy " + proxy.origin.str() + " opens no way to " + origin.str();
    if (error) throw Failure(Failure::Kind::unreachable, what + ": " + text_of(error));
    if (parser.get().result_int() / 100 != 2)
      throw Failure(Failure::Kind::unreachable,
                    what + ": HTTP " + std::to_string(parser.get().result_int()));
    // It would be read as if it had come through TLS.
    if (connection.buffer.size() != 0)
      throw Failure(Failure::Kind::unreachable,
                    what + ": it sends more than its answer, before anything was asked through it");
  }

  asio::awaitable<void> start_tls(Connection& connection, const Origin& origin,
                                  std::chrono::milliseconds timeout) {
    SSL* const handle = SSL_new(tls_context().native_handle());
    must(handle != nullptr);
    connection.tls.emplace(std::move(connection.plain), handle);
    must(SSL_get_rbio(handle) != nullptr);
    error_code error;
    asio::ip::make_address(origin.host, error);
    const bool is_name = error.failed();
    if (is_name) {
      must(SSL_set_tlsext_host_name(handle, origin.host.c_str()) == 1);
      SSL_set_hostflags(handle, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
      must(SSL_set1_host(handle, origin.host.c_str()) == 1);
    } else {
      must(X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(handle), origin.host.c_str()) == 1);
    }
    auto token = asio::redirect_error(asio::use_awaitable, error);
    connection.tcp().expires_after(timeout);
    co_await connection.tls->next_layer().async_handshake(ssl::stream_base::client, token);
    connection.tcp().expires_never();
    check_cancelled(error);
    // Without memory OpenSSL fails without an error, which Asio takes for none.
    if (!error) {
      must(SSL_is_init_finished(handle) == 1);
      co_return;
    }
    // For the next one the CA's file is read again: it may be another one by then.
    context.reset();
    const long verified = SSL_get_verify_result(handle);
    if (!settings.skip_verify && verified != X509_V_OK)
      throw Failure(Failure::Kind::untrusted,
                    "the certificate of " + origin.str() +
                        " is not trusted: " + X509_verify_cert_error_string(verified));
    const bool tls = error.category() == asio::error::get_ssl_category();
    must(!tls || ERR_GET_REASON(static_cast<unsigned long>(error.value())) != ERR_R_MALLOC_FAILURE);
    if (tls)
      throw Failure(Failure::Kind::tls,
                    origin.str() + " does not answer with usable TLS: " + text_of(error));
    throw Failure(Failure::Kind::unreachable,
                  "no connection to " + origin.str() + ": " + text_of(error));
  }

  asio::awaitable<std::unique_ptr<Connection>> connect(const Request& request) {
    auto connection = std::make_unique<Connection>(executor);
    const Url* proxy = settings.proxies.for_origin(request.origin);
    const Origin& first = proxy ? proxy->origin : request.origin;
    try {
      co_await connect_tcp(*connection, first, request.connect_timeout);
    } catch (const Failure& failure) {
      if (!proxy) throw;
      throw Failure(failure.kind(), std::string(failure.what()) +
                                        " (the proxy that HTTP_PROXY or HTTPS_PROXY names)");
    }
    if (request.origin.tls) {
      if (proxy) co_await open_tunnel(*connection, request.origin, *proxy, request.connect_timeout);
      co_await start_tls(*connection, request.origin, request.connect_timeout);
    }
    co_return connection;
  }

  asio::awaitable<Response> send(Request request) {
    Pool& pool = pool_of(request.origin);
    const Semaphore::Permit place = co_await pool.places.acquire();
    const Url* proxy = request.origin.tls ? nullptr : settings.proxies.for_origin(request.origin);
    if (proxy && !proxy->user_info.empty())
      request.headers.emplace_back("Proxy-Authorization",
                                   "Basic " + crypto::base64(as_bytes(proxy->user_info)));
    bool sent_before = false;
    while (true) {
      std::unique_ptr<Connection> connection = take_idle(pool);
      const bool reused = connection != nullptr;
      if (!reused) connection = co_await connect(request);
      Exchange result;
      if (connection->tls) {
        result = co_await exchange(*connection->tls, *connection, request, false);
      } else {
        result = co_await exchange(connection->plain, *connection, request, proxy != nullptr);
      }
      if (result.response) {
        put_back(pool, std::move(connection));
        result.response->sent_twice = sent_before;
        co_return std::move(*result.response);
      }
      // The peer may close a kept connection just when it is used again.
      const bool timed_out = result.error == beast::error::timeout;
      if (reused && !result.answer_began && !timed_out) {
        sent_before = true;
        continue;
      }
      const bool http_error =
          result.error.category() == make_error_code(beast::http::error::bad_version).category() &&
          result.error != beast::http::error::end_of_stream &&
          result.error != beast::http::error::partial_message;
      if (result.error == beast::http::error::body_limit)
        throw Failure(Failure::Kind::bad_answer,
                      "the answer of " + request.origin.str() + " is longer than expected");
      if (http_error)
        throw Failure(Failure::Kind::bad_answer,
                      "the answer of " + request.origin.str() + " is not HTTP");
      throw Failure(Failure::Kind::lost, "the connection to " + request.origin.str() +
                                             " was lost: " + text_of(result.error));
    }
  }

  const asio::any_io_executor executor;
  const ClientSettings settings;
  std::optional<ssl::context> context;
  std::map<Origin, Pool> pools;
};

/// A request on its way, in a coroutine of its own. Where a step of Asio's or Beast's cannot go on
/// for want of memory, it is destroyed with all that awaits it, and nobody is told: but for this.
struct Client::Sending {
  explicit Sending(const asio::any_io_executor& executor)
      : over(executor, asio::steady_timer::time_point::max()) {}

  static asio::awaitable<void> carry(std::shared_ptr<Impl> impl, Request request,
                                     std::shared_ptr<Sending> sending) {
    struct End {
      explicit End(Sending& s) : of(s) {}
      End(const End&) = delete;
      End& operator=(const End&) = delete;
      ~End() {
        of.ended = true;
        of.over.cancel();
      }
      Sending& of;
    };
    const End end(*sending);
    try {
      sending->response = co_await impl->send(std::move(request));
    } catch (...) {
      sending->failure = std::current_exception();
    }
  }

  asio::awaitable<void> wait() {
    error_code cancelled;
    if (!ended) co_await over.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
  }

  asio::steady_timer over;  // ends with `ended`
  asio::cancellation_signal cancel;
  bool ended = false;
  std::optional<Response> response;
  std::exception_ptr failure;
};

Client::Client(asio::any_io_executor executor, ClientSettings settings)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(settings))) {}

Client::~Client() = default;

asio::awaitable<Response> Client::send(Request request) {
  const auto impl = impl_;
  const auto sending = std::make_shared<Sending>(impl->executor);
  // Asio looks at the slot once more behind the coroutine's end.
  asio::co_spawn(impl->executor, Sending::carry(impl, std::move(request), sending),
                 asio::bind_cancellation_slot(sending->cancel.slot(),
                                              [sending](const std::exception_ptr&) {}));
  co_await sending->wait();
  if (!sending->ended) {
    sending->cancel.emit(asio::cancellation_type::terminal);
    // It uses what the caller owns until then.
    co_await asio::this_coro::throw_if_cancelled(false);
    while (!sending->ended) co_await sending->wait();
    co_await asio::this_coro::throw_if_cancelled(true);
  }
  if (sending->failure) std::rethrow_exception(sending->failure);
  if (!sending->response) throw std::bad_alloc();
  co_return std::move(*sending->response);
}

}  // namespace sqlstream::http
