#pragma once

#include <memory>
#include <string>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include "base/error.h"
#include "store/s3/http.h"
#include "store/s3/proxy.h"

namespace sqlstream::http {

namespace asio = boost::asio;

/// A request that got no answer. The text says why, of which host, in a clause without full stop.
class Failure : public Error {
 public:
  enum class Kind {
    name_unknown,  ///< no such host
    unreachable,   ///< no connection: nothing was sent
    no_socket,     ///< this process gets none: nothing was sent
    lost,          ///< the connection ended or timed out: it may have been carried out
    untrusted,     ///< a certificate that cannot be verified
    tls,           ///< no TLS, or none that is new enough
    bad_answer,    ///< not HTTP, or longer than allowed
  };
  Failure(Kind kind, const std::string& text) : Error(text), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

struct ClientSettings {
  std::string ca_file;  ///< PEM; empty: the system's
  bool skip_verify = false;
  Proxies proxies;
  unsigned requests = 32;  ///< to one origin on their way at once, the others wait
};

/// Sends requests over a pool of kept-alive connections, TLS 1.2 or newer where the origin says so.
/// Nothing runs while nothing is asked: idle connections are looked at when the next request comes.
///
/// Everything happens on one executor that runs one handler at a time; the client must outlive its
/// requests. Cancelling (terminal) ends a request with operation_aborted and drops its connection.
class Client {
 public:
  Client(asio::any_io_executor executor, ClientSettings settings);
  ~Client();

  /// Throws Failure, or std::bad_alloc. An answer of any status is an answer.
  asio::awaitable<Response> send(Request request);

 private:
  struct Impl;
  struct Sending;
  std::shared_ptr<Impl> impl_;
};

}  // namespace sqlstream::http
