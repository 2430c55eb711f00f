#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

#include "store/store.h"

namespace sqlstream {

/// Another store with faults, for tests: refusals before anything happens, answers lost after it
/// has happened, latency. Same executor and rules as the store it wraps.
class FaultStore : public Store {
 public:
  enum class Operation { put, upload, get, list, remove };
  enum class When {
    before,  ///< nothing happens
    after,   ///< it is carried out, but the caller is told that it failed
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
  /// How many operations of a kind were begun, faults included.
  int count(Operation operation) const;

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
  [[noreturn]] void strike(const Fault& fault, const std::string& key) const;

  const std::unique_ptr<Store> store_;
  const asio::any_io_executor executor_;
  std::vector<Fault> faults_;
  std::chrono::milliseconds latency_{0};
  std::map<Operation, int> counts_;
};

}  // namespace sqlstream
