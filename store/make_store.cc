#include <mutex>
#include <utility>

#include "store/file_store.h"
#include "store/s3/s3_store.h"
#include "store/store.h"

namespace sqlstream {
namespace {

std::mutex mutex;
StoreWrapper wrapper_in_use;  // mutex

std::unique_ptr<Store> make_plain_store(const StoreSettings& settings,
                                        const asio::any_io_executor& executor) {
  if (settings.type == StoreSettings::Type::file)
    return std::make_unique<FileStore>(settings, executor);
  return std::make_unique<S3Store>(settings, S3Client::shared(settings, executor));
}

}  // namespace

void wrap_stores(StoreWrapper wrapper) {
  const std::lock_guard lock(mutex);
  wrapper_in_use = std::move(wrapper);
}

std::unique_ptr<Store> make_store(const StoreSettings& settings, asio::any_io_executor executor) {
  auto store = make_plain_store(settings, executor);
  const std::lock_guard lock(mutex);
  if (wrapper_in_use) return wrapper_in_use(std::move(store), std::move(executor));
  return store;
}

}  // namespace sqlstream
