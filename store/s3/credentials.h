#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include "store/s3/environment.h"
#include "store/s3/http_client.h"
#include "store/s3/metadata_credentials.h"
#include "store/s3/semaphore.h"
#include "store/s3/sigv4.h"

namespace sqlstream {

namespace asio = boost::asio;

struct CredentialSettings {
  sigv4::Keys keys;     ///< used when both halves are set, before anything else
  std::string profile;  ///< when set, the first place looked at
  std::string region;   ///< for the token service; empty: AWS_REGION, else the global one
};

/// Finds credentials where AWS's own tools look: the settings, LITESTREAM_* and AWS_* variables,
/// web identity, the files of ~/.aws, the container's and the instance's metadata service. Keeps
/// them until shortly before they expire. One executor, as for Store.
class CredentialChain {
 public:
  /// `client` talks to the token service.
  CredentialChain(CredentialSettings settings, Environment env,
                  const asio::any_io_executor& executor, std::shared_ptr<http::Client> client);

  /// Throws StoreError: denied when there are none anywhere (the text names the places), or what
  /// a place that should have them answered.
  asio::awaitable<Credentials> get();

  /// After the service refused `refused`: looks again, and says whether others are there now.
  asio::awaitable<bool> look_again(sigv4::Keys refused);

 private:
  asio::awaitable<Credentials> find();
  asio::awaitable<std::optional<Credentials>> from_profile(std::string name, bool required);
  asio::awaitable<Credentials> from_web_identity(std::string token_file, std::string role,
                                                 std::string session);
  asio::awaitable<Credentials> from_role(sigv4::Keys keys, std::string role, std::string session,
                                         std::string external_id);
  asio::awaitable<Credentials> ask_token_service(http::Query form, const sigv4::Keys* keys);
  asio::awaitable<Credentials> from_container(std::string url);
  asio::awaitable<std::optional<Credentials>> from_instance();
  std::string variable(const std::string& name) const { return env_(name).value_or(""); }

  const CredentialSettings settings_;
  const Environment env_;
  const std::shared_ptr<http::Client> client_;
  http::Client direct_;  // metadata services are never behind a proxy
  Semaphore one_;        // one search at a time; the others wait for what it finds
  std::optional<Credentials> found_;
  std::chrono::steady_clock::time_point search_again_{};
};

}  // namespace sqlstream
