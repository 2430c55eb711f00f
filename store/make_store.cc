#include "store/file_store.h"
#include "store/store.h"

namespace sqlstream {

std::unique_ptr<Store> make_store(const StoreSettings& settings, asio::any_io_executor executor) {
  (void)executor;
  switch (settings.type) {
    case StoreSettings::Type::file:
      return std::make_unique<FileStore>(settings);
    case StoreSettings::Type::s3:
      break;
  }
  throw Error("this build cannot open " + settings.url() + " yet");
}

}  // namespace sqlstream
