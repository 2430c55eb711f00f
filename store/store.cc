#include "store/store.h"

namespace sqlstream {

asio::awaitable<void> Store::abort_stale_uploads(std::string, std::chrono::seconds) {
  co_return;
}

}  // namespace sqlstream
