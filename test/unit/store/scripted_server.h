#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "store/s3/http.h"

namespace sqlstream::test {

/// An HTTP server on 127.0.0.1 that answers as a test says, on the test's own io_context.
class ScriptedServer {
 public:
  struct Asked {
    std::string method;
    std::string target;
    http::Headers headers;
    std::string body;    ///< what there is of it, where the server does not read them
    int connection = 0;  ///< counts from 1

    std::string header(std::string_view name) const {
      return std::string(http::find_header(headers, name).value_or(""));
    }
  };
  struct Reply {
    int status = 200;
    std::string body;
    http::Headers headers;
    std::chrono::milliseconds delay{0};  ///< before it is answered
    bool silent = false;                 ///< it is never answered, and the connection stays
    bool lose = false;                   ///< the connection ends without an answer
    bool close_after = false;            ///< it ends after the answer, which does not say so
    std::string raw{};                   ///< what is sent, as it is, instead of an answer
  };
  using Script = std::function<Reply(const Asked&)>;

  ScriptedServer(boost::asio::io_context& context, Script script);
  ~ScriptedServer();
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  const std::vector<Asked>& asked() const { return *asked_; }
  /// From now on it answers when it has read the head, and closes the connection.
  void read_no_bodies();

 private:
  struct State;
  std::shared_ptr<State> state_;
  std::shared_ptr<std::vector<Asked>> asked_;
  int port_;
};

}  // namespace sqlstream::test
