#include "store/file_store.h"
#include "store/s3/s3_store.h"
#include "store/store.h"

namespace sqlstream {

std::unique_ptr<Store> make_store(const StoreSettings& settings, asio::any_io_executor executor) {
  if (settings.type == StoreSettings::Type::file)
    return std::make_unique<FileStore>(settings, executor);
  return std::make_unique<S3Store>(settings, S3Client::shared(settings, executor));
}

}  // namespace sqlstream
