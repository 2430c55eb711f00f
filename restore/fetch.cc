#include "restore/fetch.h"

#include <algorithm>
#include <utility>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>

namespace sqlstream {
namespace {

std::uint64_t units_of(std::uint64_t size) {
  return size >= OrderedFetch::kLargePiece ? OrderedFetch::kLargeUnits : 1;
}

}  // namespace

OrderedFetch::OrderedFetch(Store& store, asio::any_io_executor executor, std::size_t count,
                           Source source, Limits limits)
    : store_(store),
      executor_(std::move(executor)),
      count_(count),
      source_(std::move(source)),
      limits_(limits),
      changed_(executor_) {}

void OrderedFetch::set_limits(Limits limits) {
  limits_ = limits;
  if (!stopping_) pump();
}

void OrderedFetch::pump() {
  while (object_ < count_) {
    if (!named_) named_ = source_(object_);
    const std::uint64_t size = std::min(kPieceSize, named_->size - offset_);
    const bool room = bytes_ + size <= limits_.bytes && units_ + units_of(size) <= limits_.units;
    // Whatever the limits, one piece must be able to come.
    if (!room && (limits_.units == 0 || !slots_.empty())) return;

    auto slot = std::make_unique<Slot>();
    slot->piece.object = object_;
    slot->piece.first = offset_ == 0;
    slot->piece.last = offset_ + size == named_->size;
    slot->key = named_->key;
    slot->offset = offset_;
    slot->size = size;
    slot->whole = slot->piece.first && slot->piece.last;
    if (slot->piece.last) {
      ++object_;
      offset_ = 0;
      named_.reset();
    } else {
      offset_ += size;
    }
    bytes_ += size;
    units_ += units_of(size);
    ++in_flight_;
    slots_.push_back(std::move(slot));
    start(*slots_.back());
  }
}

void OrderedFetch::start(Slot& slot) {
  asio::co_spawn(executor_, download(slot),
                 asio::bind_cancellation_slot(slot.cancel.slot(),
                                              [this, &slot](const std::exception_ptr& error) {
                                                slot.error = error;
                                                slot.done = true;
                                                units_ -= units_of(slot.size);
                                                --in_flight_;
                                                changed_.notify();
                                                if (!stopping_) pump();
                                              }));
}

asio::awaitable<void> OrderedFetch::download(Slot& slot) {
  // Never more than was listed, whatever is there by now; of a whole object one byte behind its
  // end is asked for, which tells whether it grew.
  const ByteRange range{slot.offset, slot.size + (slot.whole ? 1 : 0)};
  slot.piece.data = co_await store_.get(slot.key, range);
  if (slot.piece.data.size() != slot.size) {
    throw Error("cannot restore, object " + store_.url() + "/" + slot.key +
                " has not the size that was listed: it changed meanwhile, restore again");
  }
}

asio::awaitable<std::vector<OrderedFetch::Piece>> OrderedFetch::next() {
  std::vector<Piece> pieces;
  if (stopping_) co_return pieces;
  bytes_ -= std::exchange(handed_out_, 0);
  pump();
  if (slots_.empty() && object_ == count_) co_return pieces;
  while (slots_.empty() || !slots_.front()->done) {
    co_await changed_.wait();
    if (stopping_) co_return pieces;
  }
  while (!slots_.empty() && slots_.front()->done && handed_out_ < kPieceSize) {
    Slot& slot = *slots_.front();
    if (slot.error) {
      if (!pieces.empty()) break;
      std::rethrow_exception(slot.error);
    }
    handed_out_ += slot.size;
    pieces.push_back(std::move(slot.piece));
    slots_.pop_front();
  }
  co_return pieces;
}

asio::awaitable<void> OrderedFetch::stop() {
  co_await asio::this_coro::throw_if_cancelled(false);
  co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
  stopping_ = true;
  changed_.notify();
  for (const auto& slot : slots_) {
    if (!slot->done) slot->cancel.emit(asio::cancellation_type::terminal);
  }
  while (in_flight_ > 0) co_await changed_.wait();
}

}  // namespace sqlstream
