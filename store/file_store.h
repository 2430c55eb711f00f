#pragma once

#include <memory>
#include <string>

#include "store/store.h"

namespace sqlstream {

/// Objects as files below a folder, which the first put creates. A file appears under its name
/// only when it is whole and on disk. The calls block on the Worker's threads, never on the
/// executor. Modes follow the folder's: who may read it may read the objects; a folder made here is
/// its owner's alone.
class FileStore : public Store {
 public:
  FileStore(const StoreSettings& settings, const asio::any_io_executor& executor);
  ~FileStore() override;

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
  class Files;  // the blocking part
  class FileUpload;

  std::string url_;
  std::shared_ptr<Files> files_;
};

}  // namespace sqlstream
