#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "format/wal.h"

namespace sqlstream {

/// Decides which page images to write when batches are visited newest first, each page being
/// written at most once. The snapshot is the oldest batch: it holds every page of its size. An
/// image counts only if no newer batch has one of that page or leaves fewer pages than its number.
/// Memory: one bit per page up to the highest one taken. Not thread-safe.
class NewestFirst {
 public:
  /// The lock-byte page of this page size is never taken.
  explicit NewestFirst(std::uint32_t page_size) : lock_page_(wal::lock_byte_page(page_size)) {}

  /// A batch that leaves the database with `size` pages. The first one called gives the final size.
  /// For several batches folded into one: first with the final size, then (after its images) with
  /// the smallest size any of them left.
  void begin_batch(std::uint32_t size) {
    if (!begun_) {
      begun_ = true;
      final_size_ = limit_ = size;
      open_ = size - (lock_page_ <= size ? 1 : 0);
    } else if (size < limit_) {
      for_each_open(size + 1, limit_,
                    [this](std::uint32_t first, std::uint32_t last) { open_ -= last - first + 1; });
      limit_ = size;
    }
  }

  /// True when the image of this page in the batch begun last is to be written; the page is then
  /// settled. Of several images of a page in one batch the newest is to be asked for first.
  bool take(std::uint32_t page) {
    if (page == 0 || page > limit_ || page == lock_page_ || taken(page)) return false;
    const std::size_t word = page / 64;
    if (word >= taken_.size()) taken_.resize(std::max(word + 1, taken_.size() * 2));
    taken_[word] |= std::uint64_t{1} << page % 64;
    --open_;
    return true;
  }

  std::uint32_t final_size() const { return final_size_; }

  /// Images of pages beyond it no longer count: the smallest size seen so far.
  std::uint32_t limit() const { return limit_; }

  /// True when no image of an older batch, nor of the snapshot, can be needed any more.
  bool complete() const { return begun_ && open_ == 0; }

  /// Calls visit(first, last) for the ranges of pages, within the final size and ascending, that
  /// were never taken. After the snapshot was visited: the pages that are zeros. Before: those of
  /// them that are <= limit() come from the snapshot, as far as it has them; the others are zeros.
  template <class Visit>
  void for_each_missing(Visit visit) const {
    for_each_untaken(1, final_size_, visit);
  }

 private:
  bool taken(std::uint32_t page) const {
    const std::size_t word = page / 64;
    return word < taken_.size() && (taken_[word] >> page % 64 & 1) != 0;
  }

  // 64-bit page numbers inside: `last` may be the largest 32-bit number.
  template <class Visit>
  void for_each_untaken(std::uint64_t first, std::uint64_t last, Visit visit) const {
    while (first <= last) {
      first = skip(first, last, true);
      if (first > last) return;
      const std::uint64_t end = skip(first, last, false);
      visit(static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(end - 1));
      first = end;
    }
  }

  // The untaken ranges without the lock-byte page: what still may be taken.
  template <class Visit>
  void for_each_open(std::uint32_t first, std::uint32_t last, Visit visit) const {
    for_each_untaken(first, last, [&](std::uint32_t from, std::uint32_t to) {
      if (lock_page_ < from || lock_page_ > to) return visit(from, to);
      if (from < lock_page_) visit(from, lock_page_ - 1);
      if (lock_page_ < to) visit(lock_page_ + 1, to);
    });
  }

  // The first page at or behind `page` whose being taken is not `state`; last + 1 if there is none.
  std::uint64_t skip(std::uint64_t page, std::uint64_t last, bool state) const {
    while (page <= last) {
      const std::uint64_t word = page / 64;
      if (word >= taken_.size()) return state ? page : last + 1;
      const std::uint64_t bits = (state ? ~taken_[word] : taken_[word]) >> page % 64;
      if (bits != 0) {
        return std::min(last + 1, page + static_cast<std::uint64_t>(std::countr_zero(bits)));
      }
      page = (word + 1) * 64;
    }
    return last + 1;
  }

  std::uint32_t lock_page_;
  std::uint32_t final_size_ = 0;
  std::uint32_t limit_ = 0;
  std::uint32_t open_ = 0;  // pages <= limit_ not yet taken, the lock-byte page aside
  bool begun_ = false;
  std::vector<std::uint64_t> taken_;  // bit page % 64 of word page / 64
};

}  // namespace sqlstream
