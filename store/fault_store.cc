#include "store/fault_store.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace sqlstream {
namespace {

constexpr std::uint64_t kEmptyHash = 0xCBF29CE484222325;

// FNV-1a, whatever the pieces.
std::uint64_t add_to_hash(std::uint64_t hash, ByteView data) {
  for (const std::uint8_t byte : data) hash = (hash ^ byte) * 0x100000001B3;
  return hash;
}

}  // namespace

/// A fault of an upload strikes when it is finished: until then nothing is visible anyway.
class FaultStore::FaultUpload : public Upload {
 public:
  FaultUpload(FaultStore& store, std::unique_ptr<Upload> upload, std::string key)
      : store_(store), upload_(std::move(upload)), key_(std::move(key)) {}

  asio::awaitable<void> write(Bytes data) override {
    hash_ = add_to_hash(hash_, data);
    co_await upload_->write(std::move(data));
  }

  asio::awaitable<void> finish() override {
    const std::optional<Fault> fault = co_await store_.begin(Operation::upload, key_);
    co_await upload_->finish();
    store_.contents_[key_].insert(hash_);
    if (fault) store_.strike(*fault, key_);
  }

 private:
  FaultStore& store_;
  std::unique_ptr<Upload> upload_;
  std::string key_;
  std::uint64_t hash_ = kEmptyHash;
};

FaultStore::FaultStore(std::unique_ptr<Store> store, asio::any_io_executor executor)
    : store_(std::move(store)), executor_(std::move(executor)) {}

int FaultStore::count(Operation operation) const {
  const auto found = counts_.find(operation);
  return found == counts_.end() ? 0 : found->second;
}

asio::awaitable<std::optional<FaultStore::Fault>> FaultStore::begin(Operation operation,
                                                                    std::string key) {
  ++counts_[operation];
  std::optional<Fault> striking;
  for (Fault& fault : faults_) {
    if (fault.operation != operation || fault.times == 0 ||
        key.find(fault.key_part) == std::string::npos)
      continue;
    if (fault.skip > 0) {
      --fault.skip;
      continue;
    }
    if (fault.times > 0) --fault.times;
    striking = fault;
    break;
  }
  if (latency_.count() > 0) {
    asio::steady_timer timer(executor_, latency_);
    co_await timer.async_wait(asio::use_awaitable);
  }
  if (striking && striking->when == When::before) strike(*striking, key);
  co_return striking;
}

void FaultStore::strike(const Fault& fault, const std::string& key) {
  ++struck_;
  throw StoreError(fault.kind, "injected fault " +
                                   std::string(fault.when == When::before ? "before" : "after") +
                                   " acting on " + key + " in " + url());
}

asio::awaitable<void> FaultStore::put(std::string key, Bytes body, PutOptions options) {
  const std::optional<Fault> fault = co_await begin(Operation::put, key);
  const std::uint64_t hash = add_to_hash(kEmptyHash, body);
  co_await store_->put(key, std::move(body), options);
  contents_[key].insert(hash);
  if (fault) strike(*fault, key);
}

asio::awaitable<std::unique_ptr<Upload>> FaultStore::start_upload(std::string key,
                                                                  std::uint64_t size_hint,
                                                                  PutOptions options) {
  std::unique_ptr<Upload> upload = co_await store_->start_upload(key, size_hint, options);
  co_return std::make_unique<FaultUpload>(*this, std::move(upload), std::move(key));
}

asio::awaitable<Bytes> FaultStore::get(std::string key, std::optional<ByteRange> range) {
  const std::optional<Fault> fault = co_await begin(Operation::get, key);
  Bytes body = co_await store_->get(key, range);
  if (fault && fault->when != When::cut) strike(*fault, key);
  if (fault) {
    ++struck_;
    body.resize(body.size() / 2);
  }
  co_return body;
}

asio::awaitable<Listing> FaultStore::list(ListQuery query) {
  // A folder does not tell which key is the last in it.
  if (page_size_ == 0 || query.folders) co_return co_await list_page(std::move(query));
  const std::size_t limit = query.limit;
  Listing all;
  while (true) {
    query.limit = limit == 0 ? page_size_ : std::min(page_size_, limit - all.objects.size());
    Listing page = co_await list_page(query);
    const bool last = page.objects.size() < query.limit;
    std::move(page.objects.begin(), page.objects.end(), std::back_inserter(all.objects));
    if (last || all.objects.size() == limit) co_return all;
    query.start_after = all.objects.back().key;
  }
}

asio::awaitable<Listing> FaultStore::list_page(ListQuery query) {
  const std::string prefix = query.prefix;
  const std::optional<Fault> fault = co_await begin(Operation::list, prefix);
  Listing listing = co_await store_->list(std::move(query));
  if (fault) strike(*fault, prefix);
  co_return listing;
}

asio::awaitable<void> FaultStore::remove(std::vector<std::string> keys) {
  const std::string first = keys.empty() ? "" : keys.front();
  const std::optional<Fault> fault = co_await begin(Operation::remove, first);
  co_await store_->remove(std::move(keys));
  if (fault) strike(*fault, first);
}

asio::awaitable<void> FaultStore::abort_stale_uploads(std::string prefix,
                                                      std::chrono::seconds older_than) {
  return store_->abort_stale_uploads(std::move(prefix), older_than);
}

}  // namespace sqlstream
