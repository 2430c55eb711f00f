#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "store/settings.h"

namespace sqlstream {

namespace asio = boost::asio;

/// Why a store refused. The text (what()) is a clear sentence naming the store and what to do.
class StoreError : public Error {
 public:
  enum class Kind {
    not_found,    ///< no such object
    exists,       ///< If-None-Match: the key is there already
    no_bucket,    ///< no such bucket, or no such folder
    denied,       ///< wrong key, secret, expired token, or no permission
    unreachable,  ///< name unknown, connection refused or lost, timed out
    tls,          ///< certificate not verifiable
    unavailable,  ///< 5xx, 429, SlowDown: try again later
    no_space,     ///< file store: disk full
    rejected,     ///< any other refusal; trying again does not help
  };
  StoreError(Kind kind, const std::string& sentence) : Error(sentence), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

struct ObjectInfo {
  std::string key;  ///< relative to the replica path
  std::uint64_t size = 0;
  Time modified{};
  Time stored{};  ///< when, by the store's own clock; file store: or `modified`, if that is earlier
};

struct ListQuery {
  std::string prefix;       ///< e.g. "generations/<gen>/wal/"
  std::string start_after;  ///< only keys behind this one; empty: all
  bool folders = false;  ///< group by the next '/': fills Listing::folders, as an S3 delimiter does
  std::size_t limit = 0;  ///< at most so many objects and folders; 0: all
};

struct Listing {
  std::vector<ObjectInfo> objects;   ///< ascending by key
  std::vector<std::string> folders;  ///< whole prefixes, ending in '/', ascending
};

struct ByteRange {
  std::uint64_t first = 0;
  std::uint64_t size = 0;  ///< bytes; the answer is shorter where the object ends before
};

struct PutOptions {
  bool if_absent = false;          ///< refuse (Kind::exists) when the key is there
  std::optional<Time> modified{};  ///< file store: the object's mtime (commit time)
};

/// One object written in pieces, its size unknown before. Nothing is visible under its key until
/// finish() has returned; destroyed before that, it leaves nothing behind (S3: parts of an upload
/// whose abort could not be sent are aborted later as stale).
class Upload {
 public:
  virtual ~Upload() = default;
  virtual asio::awaitable<void> write(Bytes data) = 0;
  virtual asio::awaitable<void> finish() = 0;
};

/// An object store, rooted at a replica path. All awaitables run on the executor it was opened
/// with, which must run one handler at a time (one thread in run(), or a strand), and may be in
/// progress concurrently. Each retries what is worth retrying for a bounded time (about 30 s) with
/// backoff and jitter, then throws StoreError. The store must outlive its awaitables, and
/// the executor's context the store; cancelling the awaiting coroutine (asio cancellation,
/// terminal) is allowed; it then ends with asio's operation_aborted.
class Store {
 public:
  virtual ~Store() = default;

  /// "s3://bucket/path" for messages.
  virtual const std::string& url() const = 0;

  /// Durable when it returns. Overwrites unless options.if_absent.
  virtual asio::awaitable<void> put(std::string key, Bytes body, PutOptions options) = 0;

  /// `size_hint`: about how many bytes will come, to size the parts.
  virtual asio::awaitable<std::unique_ptr<Upload>> start_upload(std::string key,
                                                                std::uint64_t size_hint,
                                                                PutOptions options) = 0;

  /// The whole object, or a range of it. Kind::not_found when there is none.
  virtual asio::awaitable<Bytes> get(std::string key, std::optional<ByteRange> range) = 0;

  /// A prefix without objects gives an empty listing, not an error.
  virtual asio::awaitable<Listing> list(ListQuery query) = 0;

  /// Deletes; keys that are not there are no error.
  virtual asio::awaitable<void> remove(std::vector<std::string> keys) = 0;

  /// Frees what uploads below `prefix` left behind that were begun more than `older_than` ago and
  /// never finished (their process died). Stores without such leftovers do nothing.
  virtual asio::awaitable<void> abort_stale_uploads(std::string prefix,
                                                    std::chrono::seconds older_than);
};

/// Opens nothing yet: the first request connects. Throws Error for settings that cannot work.
std::unique_ptr<Store> make_store(const StoreSettings& settings, asio::any_io_executor executor);

/// For tests: what make_store() makes from now on is handed to `wrapper`, whose result is used in
/// its place. Empty: no longer.
using StoreWrapper =
    std::function<std::unique_ptr<Store>(std::unique_ptr<Store>, asio::any_io_executor)>;
void wrap_stores(StoreWrapper wrapper);

}  // namespace sqlstream
