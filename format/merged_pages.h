#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "base/reserve_apart.h"

namespace sqlstream {

/// Folds batches, oldest first, into one: the newest image of each page, none beyond the final
/// size. `Image` is a cheap value: a pointer or a place in a file. A fold folds like a batch: first
/// begin_batch(smallest_size()), then begin_batch(database_size()), then add() each of its images.
/// A million pages are folded often: memory is little more than an Image for each.
template <class Image>
class MergedPages {
 public:
  using Pages = std::vector<std::pair<std::uint32_t, Image>>;

  /// A batch that leaves the database with `size` pages. Images accumulated for pages beyond it are
  /// removed first: an image from before a shrink must not survive a later growth.
  void begin_batch(std::uint32_t size) {
    const bool shrinks = size < largest_;
    if (shrinks || images_.size() - settled_ > settled_ / 2) settle();
    if (shrinks) {
      images_.erase(first_behind(size), images_.end());
      settled_ = images_.size();
      largest_ = size;
    }
    smallest_ = std::min(smallest_, size);
    size_ = size;
  }

  /// About so many images are to come.
  void expect(std::size_t count) {
    const std::size_t wanted = images_.size() + count;
    if (wanted > images_.capacity()) {
      reserve_apart(images_, std::max(wanted, 2 * images_.capacity()));
    }
  }

  /// An image of the batch begun last; dropped when beyond its size.
  void add(std::uint32_t page, Image image) {
    if (page == 0 || page > size_) return;
    images_.emplace_back(page, std::move(image));
    largest_ = std::max(largest_, page);
  }

  std::uint32_t database_size() const { return size_; }
  /// The smallest size any batch left; images from before the fold count only up to it.
  std::uint32_t smallest_size() const { return std::min(smallest_, size_); }
  std::size_t count() { return sorted().size(); }
  /// As count(), or more where a page's images have not been put together yet: costs nothing.
  std::size_t count_at_most() const { return images_.size(); }

  /// Ascending by page number; until the next call that changes it.
  const Pages& sorted() {
    settle();
    return images_;
  }

  /// Pages that a shrink removed and a later growth brought back without an image: zeros, whatever
  /// was there before the fold. Ascending; the lock-byte page may be among them. Written as images
  /// of zeros they make smallest_size() needless to whoever applies the fold.
  std::vector<std::uint32_t> cleared() {
    settle();
    std::vector<std::uint32_t> pages;
    auto next = first_behind(smallest_size());
    for (std::uint64_t page = std::uint64_t{smallest_size()} + 1; page <= size_; ++page) {
      const bool has_image = next != images_.end() && next->first == page;
      if (has_image) {
        ++next;
      } else {
        pages.push_back(static_cast<std::uint32_t>(page));
      }
    }
    return pages;
  }

 private:
  typename Pages::iterator first_behind(std::uint32_t page) {
    return std::upper_bound(images_.begin(), images_.end(), page,
                            [](std::uint32_t one, const auto& image) { return one < image.first; });
  }

  // Of images for one page the newest is the last.
  void settle() {
    if (settled_ == images_.size()) return;
    const auto ascending = [](const auto& a, const auto& b) { return a.first < b.first; };
    const auto added = images_.begin() + static_cast<std::ptrdiff_t>(settled_);
    std::stable_sort(added, images_.end(), ascending);
    std::inplace_merge(images_.begin(), added, images_.end(), ascending);
    const auto newest =
        std::unique(images_.rbegin(), images_.rend(),
                    [](const auto& a, const auto& b) { return a.first == b.first; });
    images_.erase(images_.begin(), newest.base());
    settled_ = images_.size();
  }

  Pages images_;             // then those added since
  std::size_t settled_ = 0;  // so many are ascending, one for each page
  std::uint32_t size_ = 0;
  std::uint32_t smallest_ = std::numeric_limits<std::uint32_t>::max();
  std::uint32_t largest_ = 0;  // no image beyond it
};

}  // namespace sqlstream
