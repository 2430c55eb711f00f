#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/cancellation_signal.hpp>

#include "restore/event.h"
#include "store/store.h"

namespace sqlstream {

/// Downloads objects in order, ahead of their use, large ones in pieces. Used by one coroutine on
/// the store's executor (one thread).
class OrderedFetch {
 public:
  struct Object {
    std::string key;
    std::uint64_t size = 0;  ///< as listed
  };
  /// The n-th object.
  using Source = std::function<Object(std::size_t)>;

  /// What may be in flight or waiting to be used. A large piece counts kLargeUnits, a small one 1:
  /// of small objects, where latency is what costs, many more are fetched at once.
  struct Limits {
    std::uint64_t bytes = 0;
    std::uint64_t units = 0;  ///< in flight; 0: nothing yet
  };
  static constexpr std::uint64_t kPieceSize = 2 << 20;
  static constexpr std::uint64_t kLargePiece = 256 << 10;
  static constexpr std::uint64_t kLargeUnits = 16;

  struct Piece {
    std::size_t object = 0;
    bool first = false;  ///< of its object
    bool last = false;
    Bytes data;
  };

  OrderedFetch(Store& store, asio::any_io_executor executor, std::size_t count, Source source,
               Limits limits);
  /// Precondition: stop() has returned, or every piece was taken.
  ~OrderedFetch() = default;

  void set_limits(Limits limits);

  /// The next pieces, in order: at least one, and more when they are there already. Empty at the
  /// end. Those handed out before count as used.
  asio::awaitable<std::vector<Piece>> next();

  /// Ends what is in flight. Not interrupted by a cancellation.
  asio::awaitable<void> stop();

 private:
  struct Slot {
    Piece piece;
    std::string key;
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    bool whole = false;  // the object has this one piece
    bool done = false;
    std::exception_ptr error;
    asio::cancellation_signal cancel;
  };

  void pump();
  void start(Slot& slot);
  asio::awaitable<void> download(Slot& slot);

  Store& store_;
  asio::any_io_executor executor_;
  std::size_t count_;
  Source source_;
  Limits limits_;
  Event changed_;

  std::size_t object_ = 0;       // the next piece to start: of this object,
  std::uint64_t offset_ = 0;     // … from here
  std::optional<Object> named_;  // object_, once its name was asked for
  std::deque<std::unique_ptr<Slot>> slots_;
  std::uint64_t bytes_ = 0;  // in slots_ and handed out last
  std::uint64_t handed_out_ = 0;
  std::uint64_t units_ = 0;
  std::size_t in_flight_ = 0;
  bool stopping_ = false;
};

}  // namespace sqlstream
