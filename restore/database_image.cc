#include "restore/database_image.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "format/wal.h"

namespace sqlstream {

void DatabaseImage::set_page_size(std::uint32_t page_size) {
  const std::lock_guard lock(mutex_);
  if (page_size_ != 0 && page_size_ != page_size) {
    throw Error("its page size is " + std::to_string(page_size) + ", but the database's is " +
                std::to_string(page_size_));
  }
  if (page_size_ == 0) page_size_ = page_size;
}

bool DatabaseImage::claimed(std::uint64_t page) const {
  const auto chunk = claims_.find(page / kChunkPages);
  if (chunk == claims_.end()) return false;
  const auto bit = page % kChunkPages;
  return (chunk->second[bit / 64] >> (bit % 64) & 1) != 0;
}

DatabaseImage::Runs DatabaseImage::begin_window(std::uint64_t size) {
  Runs runs;
  const std::lock_guard lock(mutex_);
  window_end_ = frontier_ + size;
  if (page_size_ == 0) {
    runs.emplace_back(frontier_, window_end_);
  } else {
    const std::uint64_t end = std::min(window_end_, limit_);
    const std::uint64_t lock_page = wal::lock_byte_page(page_size_);
    for (std::uint64_t at = frontier_; at < end; at += page_size_) {
      const std::uint64_t page = at / page_size_ + 1;
      if (page == lock_page || claimed(page)) continue;
      if (!runs.empty() && runs.back().second == at) {
        runs.back().second = at + page_size_;
      } else {
        runs.emplace_back(at, at + page_size_);
      }
    }
  }
  if (!runs.empty()) high_ = std::max(high_, runs.back().second);
  return runs;
}

void DatabaseImage::write_snapshot(ByteView data) {
  const std::uint64_t begin = frontier_;  // only this side changes it
  try {
    for (const auto& [from, to] : begin_window(data.size())) {
      file_.write(from, data.subspan(from - begin, to - from));
    }
  } catch (...) {
    // Who waits for the window, or comes to it later, would wait for ever.
    {
      const std::lock_guard lock(mutex_);
      window_end_ = frontier_;
    }
    window_moved_.notify_all();
    throw;
  }
  {
    const std::lock_guard lock(mutex_);
    frontier_ = window_end_;
    if (page_size_ != 0 && !claims_.empty()) {
      // Claims behind the frontier have served.
      const std::uint64_t first = (begin / page_size_ + 1) / kChunkPages;
      const std::uint64_t last = (frontier_ / page_size_ + 1) / kChunkPages;
      for (std::uint64_t chunk = first; chunk < last; ++chunk) claims_.erase(chunk);
    }
  }
  window_moved_.notify_all();
  if (frontier_ - handed_over_ < kHandedOver) return;
  file_.begin_writeback(handed_over_, frontier_ - handed_over_);
  handed_over_ = frontier_;
}

void DatabaseImage::end_snapshot() {
  const std::lock_guard lock(mutex_);
  snapshot_done_ = true;
  claims_.clear();
}

void DatabaseImage::write_page(std::uint32_t page, ByteView data) {
  if (page == 0 || page == wal::lock_byte_page(page_size_)) return;
  const std::uint64_t at = std::uint64_t{page - 1} * page_size_;
  {
    std::unique_lock lock(mutex_);
    high_ = std::max(high_, at + page_size_);
    if (!snapshot_done_) {
      window_moved_.wait(lock, [&] { return at < frontier_ || at >= window_end_; });
      if (at >= frontier_) {
        claims_[page / kChunkPages][page % kChunkPages / 64] |= std::uint64_t{1} << (page % 64);
      }
    }
  }
  file_.write(at, data);
}

bool DatabaseImage::crowded(std::uint64_t pending) {
  const std::lock_guard lock(mutex_);
  return !snapshot_done_ && claims_.size() + pending / 4 >= kMostChunks;
}

void DatabaseImage::commit(std::uint32_t pages) {
  const std::uint64_t size = std::uint64_t{pages} * page_size_;
  std::unique_lock lock(mutex_);
  committed_size_ = size;
  limit_ = std::min(limit_, size);
  if (size >= high_) return;
  window_moved_.wait(lock, [&] { return frontier_ == window_end_ || window_end_ <= size; });
  file_.set_size(size);
  high_ = size;
}

std::uint64_t DatabaseImage::finish() {
  const std::uint64_t size = committed_size_.value_or(frontier_);
  file_.set_size(size);
  return page_size_ == 0 ? 0 : size / page_size_;
}

}  // namespace sqlstream
