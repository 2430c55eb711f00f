#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/log.h"
#include "store/store.h"

namespace sqlstream {

/// Deletes what a replica no longer needs, as far as it is allowed to: a key may be meant to write
/// only, a bucket to keep everything. Such a refusal is logged once, and all else goes on. On the
/// store's executor.
class Deletion {
 public:
  /// `store` must outlive it; `fields` go into the log.
  Deletion(Store& store, log::Fields fields) : store_(store), fields_(std::move(fields)) {}

  /// False when it was refused. Throws StoreError for what may succeed another time.
  asio::awaitable<bool> remove(std::vector<std::string> keys);
  /// As Store::abort_stale_uploads(); a refusal is no error.
  asio::awaitable<void> abort_stale_uploads(std::string prefix, std::chrono::seconds older_than);

 private:
  asio::awaitable<bool> allowed(asio::awaitable<void> work, const char* otherwise, bool& refused);

  Store& store_;
  const log::Fields fields_;
  bool removal_refused_ = false;
  bool abort_refused_ = false;
};

}  // namespace sqlstream
