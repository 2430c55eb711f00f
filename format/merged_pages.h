#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sqlstream {

/// Folds batches, oldest first, into one: the newest image of each page, none beyond the final
/// size. `Image` is a cheap value: a pointer or a place in a file. (DESIGN: merging pages.)
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
    size_ = size;
  }

  /// An image of the batch begun last; dropped when beyond its size.
  void add(std::uint32_t page, Image image) {
    if (page == 0 || page > size_) return;
    images_.insert_or_assign(page, std::move(image));
    largest_ = std::max(largest_, page);
  }

  std::uint32_t database_size() const { return size_; }
  std::size_t count() const { return images_.size(); }

  /// Ascending by page number.
  std::vector<std::pair<std::uint32_t, Image>> sorted() const {
    std::vector<std::pair<std::uint32_t, Image>> pages(images_.begin(), images_.end());
    std::sort(pages.begin(), pages.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    return pages;
  }

 private:
  std::unordered_map<std::uint32_t, Image> images_;
  std::uint32_t size_ = 0;
  std::uint32_t largest_ = 0;  // no image beyond it
};

}  // namespace sqlstream
