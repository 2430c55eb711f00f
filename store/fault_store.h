#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

#include "store/store.h"

namespace sqlstream {

/// Another store with faults, for tests: refusals before anything happens, answers lost after it
/// has happened, answers cut short, listings in pages, latency. Same executor and rules as the
/// store it wraps.
class FaultStore : public Store {
 public:
  enum class Operation { put, upload, get, list, remove };
  enum class When {
    before,  ///< nothing happens
    after,   ///< it is carried out, but the caller is told that it failed
    cut,     ///< of a get: half of the answer comes, as if that were all
  };
  struct Fault {
    Operation operation = Operation::put;
    When when = When::before;
    StoreError::Kind kind = StoreError::Kind::unavailable;
    std::string key_part;  ///< only where the key (or prefix) contains this
    int skip = 0;          ///< so many matching operations succeed first
    int times = 1;         ///< so many fail; negative: all from then on
  };

  FaultStore(std::unique_ptr<Store> store, asio::any_io_executor executor);

  /// Faults are tried in the order they were added; the first that matches strikes.
  void add(Fault fault) { faults_.push_back(std::move(fault)); }
  /// Removes what is left of all faults.
  void clear() { faults_.clear(); }
  /// Every operation takes at least so long.
  void set_latency(std::chrono::milliseconds latency) { latency_ = latency; }
  /// Objects are listed so many at a time, each time an operation of its own; 0: all at once.
  void set_page_size(std::size_t size) { page_size_ = size; }
  /// How many operations of a kind were begun, faults included.
  int count(Operation operation) const;
  /// How many faults have struck.
  int struck() const { return struck_; }
  /// The hashes of all that was written to each key.
  using Contents = std::map<std::string, std::set<std::uint64_t>>;
  const Contents& contents() const { return contents_; }

  const std::string& url() const override { return store_->url(); }
  asio::awaitable<void> put(std::string key, Bytes body, PutOptions options) override;
  asio::awaitable<std::unique_ptr<Upload>> start_upload(std::string key, std::uint64_t size_hint,
                                                        PutOptions options) override;
  asio::awaitable<Bytes> get(std::string key, std::optional<ByteRange> range) override;
  asio::awaitable<Listing> list(ListQuery query) override;
  asio::awaitable<void> remove(std::vector<std::string> keys) override;
  asio::awaitable<void> abort_stale_uploads(std::string prefix,
                                            std::chrono::seconds older_than) override;

 private:
  class FaultUpload;

  /// Counts, waits, and throws or returns the fault that strikes afterwards.
  asio::awaitable<std::optional<Fault>> begin(Operation operation, std::string key);
  [[noreturn]] void strike(const Fault& fault, const std::string& key);
  asio::awaitable<Listing> list_page(ListQuery query);

  const std::unique_ptr<Store> store_;
  const asio::any_io_executor executor_;
  std::vector<Fault> faults_;
  std::chrono::milliseconds latency_{0};
  std::size_t page_size_ = 0;
  int struck_ = 0;
  Contents contents_;
  std::map<Operation, int> counts_;
};

}  // namespace sqlstream
