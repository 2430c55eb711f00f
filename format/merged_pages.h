#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sqlstream {

/// Folds batches, oldest first, into one: the newest image of each page, none beyond the final
/// size. `Image` is a cheap value: a pointer or a place in a file. A fold folds like a batch: first
/// begin_batch(smallest_size()), then begin_batch(database_size()), then add() each of its images.
template <class Image>
class MergedPages {
 public:
  /// A batch that leaves the database with `size` pages. Images accumulated for pages beyond it are
  /// removed first: an image from before a shrink must not survive a later growth.
  void begin_batch(std::uint32_t size) {
    if (size < largest_) {
      std::erase_if(images_, [size](const auto& entry) { return entry.first > size; });
      largest_ = size;
    }
    smallest_ = std::min(smallest_, size);
    size_ = size;
  }

  /// An image of the batch begun last; dropped when beyond its size.
  void add(std::uint32_t page, Image image) {
    if (page == 0 || page > size_) return;
    images_.insert_or_assign(page, std::move(image));
    largest_ = std::max(largest_, page);
  }

  std::uint32_t database_size() const { return size_; }
  /// The smallest size any batch left; images from before the fold count only up to it.
  std::uint32_t smallest_size() const { return std::min(smallest_, size_); }
  std::size_t count() const { return images_.size(); }

  /// Ascending by page number.
  std::vector<std::pair<std::uint32_t, Image>> sorted() const {
    std::vector<std::pair<std::uint32_t, Image>> pages(images_.begin(), images_.end());
    std::sort(pages.begin(), pages.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    return pages;
  }

  /// Pages that a shrink removed and a later growth brought back without an image: zeros, whatever
  /// was there before the fold. Ascending; the lock-byte page may be among them. Written as images
  /// of zeros they make smallest_size() needless to whoever applies the fold.
  std::vector<std::uint32_t> cleared() const {
    std::vector<std::uint32_t> pages;
    for (std::uint64_t page = std::uint64_t{smallest_size()} + 1; page <= size_; ++page) {
      const auto number = static_cast<std::uint32_t>(page);
      if (!images_.contains(number)) pages.push_back(number);
    }
    return pages;
  }

 private:
  std::unordered_map<std::uint32_t, Image> images_;
  std::uint32_t size_ = 0;
  std::uint32_t smallest_ = std::numeric_limits<std::uint32_t>::max();
  std::uint32_t largest_ = 0;  // no image beyond it
};

}  // namespace sqlstream
