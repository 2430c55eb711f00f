#pragma once

#include <memory>
#include <string>
#include <vector>

#include "store/s3/s3_client.h"
#include "store/store.h"

namespace sqlstream {

/// Objects in an S3 bucket, below a key prefix.
class S3Store : public Store {
 public:
  S3Store(const StoreSettings& settings, std::shared_ptr<S3Client> client);

  const std::string& url() const override { return url_; }
  asio::awaitable<void> put(std::string key, Bytes body, PutOptions options) override;
  asio::awaitable<std::unique_ptr<Upload>> start_upload(std::string key, std::uint64_t size_hint,
                                                        PutOptions options) override;
  asio::awaitable<Bytes> get(std::string key, std::optional<ByteRange> range) override;
  asio::awaitable<Listing> list(ListQuery query) override;
  asio::awaitable<void> remove(std::vector<std::string> keys) override;
  asio::awaitable<void> abort_stale_uploads(std::string prefix,
                                            std::chrono::seconds older_than) override;

 private:
  asio::awaitable<bool> remove_batch(std::vector<std::string> keys);
  asio::awaitable<void> remove_one(std::string key);
  std::string address(const std::string& whole_key) const;

  const std::string url_;
  const std::string prefix_;  // "path/" or empty
  const http::Headers object_headers_;
  const std::shared_ptr<S3Client> client_;
};

/// Writes one object under its whole key; S3Upload's and S3Store's.
asio::awaitable<void> s3_put(std::shared_ptr<S3Client> client, std::string key, Bytes body,
                             PutOptions options, http::Headers headers);

}  // namespace sqlstream
