#include "shipper/deletion.h"

#include <utility>

namespace sqlstream {

asio::awaitable<bool> Deletion::remove(std::vector<std::string> keys) {
  auto work = store_.remove(std::move(keys));
  const bool done =
      co_await allowed(std::move(work), "so what is no longer needed stays", removal_refused_);
  co_return done;
}

asio::awaitable<void> Deletion::abort_stale_uploads(std::string prefix,
                                                    std::chrono::seconds older_than) {
  auto work = store_.abort_stale_uploads(std::move(prefix), older_than);
  co_await allowed(std::move(work), "so what unfinished uploads left stays", abort_refused_);
}

asio::awaitable<bool> Deletion::allowed(asio::awaitable<void> work, const char* otherwise,
                                        bool& refused) {
  std::string why;
  try {
    co_await std::move(work);
  } catch (const StoreError& e) {
    if (e.kind() != StoreError::Kind::denied && e.kind() != StoreError::Kind::rejected) throw;
    why = e.what();
  }
  if (!why.empty() && !refused) log::warn(why + ", " + otherwise, fields_);
  refused = !why.empty();
  co_return !refused;
}

}  // namespace sqlstream
