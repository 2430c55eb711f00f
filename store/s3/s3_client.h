#pragma once

#include <memory>
#include <string>

#include "store/s3/credentials.h"
#include "store/s3/environment.h"
#include "store/s3/failure.h"
#include "store/s3/http_client.h"
#include "store/s3/retry.h"
#include "store/settings.h"
#include "store/worker.h"

namespace sqlstream {

/// One S3 operation, as plain values.
struct S3Call {
  std::string action;  ///< for messages: "write s3://bucket/key"
  std::string method = "GET";
  std::string key;  ///< whole, not encoded; empty: the bucket itself
  http::Query query;
  http::Headers headers;
  ByteView body;  ///< must outlive the call
  std::uint64_t answer_limit = 16 * 1024 * 1024;
  bool error_in_200 = false;  ///< success may turn into an <Error> document after the status line
};

struct S3Answer {
  http::Response response;
  bool maybe_acted = false;  ///< an earlier attempt may have been carried out, its answer lost
};

/// Where a bucket's requests go. Pure.
struct S3Address {
  http::Origin origin;
  std::string path_prefix;  ///< "/bucket" or empty
};
/// Throws Error for an endpoint that is no URL. `region` counts only where there is no endpoint.
S3Address address_of(const StoreSettings& settings, const std::string& region);

/// Signs, sends and retries requests to one bucket; keeps what was learnt of the service: region,
/// clock difference, what it does not implement. Shared by the stores of one executor that have the
/// same settings but for the path, so that they share connections and credentials.
class S3Client {
 public:
  S3Client(const StoreSettings& settings, const asio::any_io_executor& executor, Environment env,
           RetryPolicy policy);

  /// The client for these settings, made when there is none yet. Callable on any thread.
  static std::shared_ptr<S3Client> shared(const StoreSettings& settings,
                                          const asio::any_io_executor& executor);

  /// Answers of status 2xx. Throws StoreError (S3Failure when the service refused).
  asio::awaitable<S3Answer> call(S3Call call);

  const asio::any_io_executor& executor() const { return executor_; }
  const std::string& bucket() const { return settings_.bucket; }

  bool has_conditional_puts = true;  ///< until the service says otherwise
  bool has_batch_delete = true;      ///< until the service says otherwise

 private:
  struct Attempts;
  asio::awaitable<std::optional<http::Response>> attempt(const S3Call& call,
                                                         const std::string& payload_hash,
                                                         Attempts& state);
  asio::awaitable<bool> amend(const http::Response& response, const S3Failure& refused,
                              Attempts& state);
  asio::awaitable<std::string> hash(ByteView body);
  std::string region() const { return region_.empty() ? "us-east-1" : region_; }

  const StoreSettings settings_;
  const asio::any_io_executor executor_;
  const RetryPolicy policy_;
  std::shared_ptr<http::Client> http_;
  CredentialChain credentials_;
  std::string region_;
  sigv4::SigningKey signing_key_;
  std::chrono::seconds skew_{0};  // the service's clock less ours
};

}  // namespace sqlstream
