#pragma once

#include <memory>
#include <string>

#include "store/s3/s3_client.h"
#include "store/store.h"

namespace sqlstream {

/// The size of the parts an object of about `size_hint` bytes is sent in: S3 allows 10,000 parts of
/// at least 5 MiB.
std::size_t part_size_for(std::uint64_t size_hint);

/// One object sent in parts, at most two of them on their way; in one plain PUT when it fits in a
/// part. Memory: three parts.
class S3Upload : public Upload {
 public:
  S3Upload(std::shared_ptr<S3Client> client, std::string key, std::uint64_t size_hint,
           PutOptions options, http::Headers headers);
  ~S3Upload() override;

  asio::awaitable<void> write(Bytes data) override;
  asio::awaitable<void> finish() override;

 private:
  struct State;  // shared with the parts on their way
  asio::awaitable<void> send_part();
  asio::awaitable<void> complete();

  const std::shared_ptr<State> state_;
  const std::size_t part_size_;
  const PutOptions options_;
  const http::Headers headers_;
  Bytes buffer_;
};

/// Frees the parts of an upload; one that is gone already is no error.
asio::awaitable<void> s3_abort(std::shared_ptr<S3Client> client, std::string key, std::string id);

}  // namespace sqlstream
