#include "restore/replay.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <string_view>

namespace sqlstream {
namespace {

constexpr std::size_t kDatabaseHeader = 100;
constexpr std::string_view kMagic{"SQLite format 3\0", 16};

[[noreturn]] void fail_frames() {
  throw Error("its frames are not the ones it was made of");
}

// Bytes of the database that a snapshot is of.
std::uint64_t made_of(const Metadata& snapshot) {
  return std::uint64_t{snapshot.database_size} * snapshot.page_size;
}

}  // namespace

void SnapshotReplay::write(ByteView stored) {
  if (!begun_) {
    begun_ = true;
    metadata_ = decode_metadata(stored);
    if (metadata_ && metadata_->kind != Metadata::Kind::snapshot) {
      throw Error("it is not a snapshot");
    }
  }
  decompressor_.write(stored, [this](ByteView data) { accept(data); });
}

void SnapshotReplay::find_page_size() {
  looked_for_page_size_ = true;
  std::uint32_t page_size = 0;
  if (metadata_) {
    page_size = metadata_->page_size;
  } else if (carried_.size() >= kDatabaseHeader &&
             as_text(ByteView(carried_).first(kMagic.size())) == kMagic) {
    page_size = std::uint32_t{carried_[16]} << 8 | carried_[17];
    if (page_size == 1) page_size = 65536;
  }
  // Without a header it is the image of a page codec; its WAL will tell the page size.
  if (wal::is_valid_page_size(page_size)) image_.set_page_size(page_size);
}

void SnapshotReplay::accept(ByteView data) {
  size_ += data.size();
  // At once: what inflates without end must not fill the disk first.
  if (metadata_ && size_ > made_of(*metadata_)) fail_size();
  if (!looked_for_page_size_) {
    carried_.insert(carried_.end(), data.begin(), data.end());
    if (carried_.size() < kDatabaseHeader) return;
    find_page_size();
    data = {};
  }
  const std::uint32_t page_size = std::max(image_.page_size(), 1U);
  if (!carried_.empty()) {
    // Complete the page that was begun, or hand on all that was carried.
    const std::size_t missing = (page_size - carried_.size() % page_size) % page_size;
    const std::size_t taken = std::min(missing, data.size());
    carried_.insert(carried_.end(), data.begin(),
                    data.begin() + static_cast<std::ptrdiff_t>(taken));
    data = data.subspan(taken);
    const std::size_t whole = carried_.size() - carried_.size() % page_size;
    if (whole > 0) {
      image_.write_snapshot(ByteView(carried_).first(whole));
      carried_.erase(carried_.begin(), carried_.begin() + static_cast<std::ptrdiff_t>(whole));
    }
  }
  const std::size_t whole = data.size() - data.size() % page_size;
  if (whole > 0) image_.write_snapshot(data.first(whole));
  carried_.insert(carried_.end(), data.begin() + static_cast<std::ptrdiff_t>(whole), data.end());
}

void SnapshotReplay::fail_size() const {
  const bool longer = size_ > made_of(*metadata_);
  throw Error("it holds " + std::string(longer ? "more than " : "") + std::to_string(size_) +
              " bytes, not the " + std::to_string(metadata_->database_size) +
              " pages it was made of");
}

void SnapshotReplay::finish() {
  decompressor_.finish();
  if (!looked_for_page_size_ && !carried_.empty()) find_page_size();
  if (!carried_.empty()) throw Error("it ends inside a page");
  if (metadata_ && size_ != made_of(*metadata_)) fail_size();
  image_.end_snapshot();
}

void PendingFrames::add(std::uint32_t page, ByteView data) {
  ++count_;
  const auto number = std::bit_cast<std::array<std::uint8_t, sizeof page>>(page);
  memory_.insert(memory_.end(), number.begin(), number.end());
  memory_.insert(memory_.end(), data.begin(), data.end());
  if (memory_.size() < kMemory) return;
  if (!scratch_) scratch_ = target_.scratch();
  scratch_->write(scratch_size_, memory_);
  scratch_size_ += memory_.size();
  memory_.clear();
}

void PendingFrames::apply(DatabaseImage& image) {
  const std::size_t size = sizeof(std::uint32_t) + image.page_size();
  const auto apply_one = [&](ByteView frame) {
    std::uint32_t page = 0;
    std::memcpy(&page, frame.data(), sizeof page);
    image.write_page(page, frame.subspan(sizeof page));
  };
  Bytes buffer(scratch_size_ > 0 ? size : 0);
  for (std::uint64_t at = 0; at < scratch_size_; at += size) {
    scratch_->read(at, buffer);
    apply_one(buffer);
  }
  for (std::size_t at = 0; at < memory_.size(); at += size) {
    apply_one(ByteView(memory_).subspan(at, size));
  }
  drop();
}

void PendingFrames::drop() {
  count_ = 0;
  memory_.clear();
  if (scratch_size_ > 0) scratch_->clear();
  scratch_size_ = 0;
}

void WalReplay::begin(const replica::Segment& segment, const std::optional<Metadata>& metadata) {
  const auto kind = segment.level == 0 ? Metadata::Kind::segment : Metadata::Kind::compacted;
  if (metadata && metadata->kind != kind) throw Error("it is not a WAL segment");
  const Position position = segment.position;
  const bool new_index = index_ != position.index;
  if (new_index) {
    // Names do not tell whether an index goes on: its last frame and the sequences do.
    if (!decoder_.at_frame_boundary()) throw SegmentMissing("the rest of a frame");
    if (metadata && last_sequence_ != 0 && metadata->first_sequence > last_sequence_ + 1) {
      throw SegmentMissing("the end of the index before");
    }
    // Of two machines that both went on with one generation.
    if (metadata && last_sequence_ != 0 && metadata->first_sequence <= last_sequence_) {
      throw Error("it begins before what is in front of it ends");
    }
  }
  // Litestream 0.3.13 now and then ships again what the segment before already ended with.
  const bool overlaps = !new_index && position.offset < decoder_.offset();
  if (overlaps && metadata) throw Error("it overlaps the segment before it");
  if (new_index ? position.offset != 0 : position.offset > decoder_.offset()) {
    throw SegmentMissing("a part of the index");
  }
  folded_.reset();
  known_bytes_ = overlaps ? decoder_.offset() - position.offset : 0;
  if (new_index) {
    pending_.drop();  // as SQLite does with a transaction that was never committed
    decoder_ = wal::Decoder();
    index_ = position.index;
  }
  decompressor_ = lz4::Decompressor();
  metadata_ = metadata;
  time_ = object_time(segment.created, metadata);
  begin_offset_ = frames_begin_ = decoder_.offset();
  most_bytes_ = metadata ? metadata->wal_size : 0;
  commit_offset_ = 0;
  ends_on_commit_ = metadata && metadata->ends_on_commit;
  after_commit_ = false;
  if (segment.level != 0) begin_compacted(segment, metadata);
  if (ends_on_commit_ && !pending_.empty()) pending_.apply(image_);
}

void WalReplay::begin_compacted(const replica::Segment& segment,
                                const std::optional<Metadata>& metadata) {
  if (!metadata || !metadata->ends_on_commit || !wal::is_valid_page_size(metadata->page_size) ||
      metadata->wal_size != segment.end - segment.position.offset) {
    throw Error("it is not what its name says");
  }
  if (!pending_.empty() || !decoder_.at_frame_boundary()) {
    throw Error("it begins inside a transaction");
  }
  // Its checksums are its own, and begin anew.
  if (last_sequence_ != 0 && metadata->first_sequence != last_sequence_ + 1) {
    throw Error("it does not go on where what is before it ended");
  }
  folded_.emplace();
  // Each page once.
  frames_begin_ = 0;
  most_bytes_ = wal::kHeaderSize + std::uint64_t{metadata->database_size} *
                                       (wal::kFrameHeaderSize + metadata->page_size);
}

void WalReplay::take(const wal::Decoder::Frame& frame) {
  if (folded_ && std::max(frame.page, frame.commit_size) > metadata_->database_size) {
    throw Error("it holds pages beyond the database's end");
  }
  after_commit_ = frame.commit_size != 0;
  if (ends_on_commit_) {
    image_.write_page(frame.page, frame.data);
  } else {
    pending_.add(frame.page, frame.data);
    if (after_commit_) pending_.apply(image_);
  }
  if (!after_commit_) return;
  image_.commit(frame.commit_size);
  commit_offset_ = decoder_.offset();  // end_compacted() corrects it
}

void WalReplay::write(ByteView stored) {
  decompressor_.write(stored, [this](ByteView data) {
    const auto known = std::min<std::uint64_t>(known_bytes_, data.size());
    known_bytes_ -= known;
    data = data.subspan(known);
    wal::Decoder& decoder = folded_ ? *folded_ : decoder_;
    if (metadata_ && decoder.offset() + data.size() - frames_begin_ > most_bytes_) {
      fail_frames();  // at once, as a snapshot does
    }
    while (true) {
      const bool had_header = decoder.header().has_value();
      const auto frame = decoder.next(data);
      if (!had_header && decoder.header()) image_.set_page_size(decoder.header()->page_size);
      if (!frame) break;
      take(*frame);
    }
  });
}

void WalReplay::end() {
  decompressor_.finish();
  const wal::Decoder& decoder = folded_ ? *folded_ : decoder_;
  if (ends_on_commit_ && (!after_commit_ || !decoder.at_frame_boundary())) {
    throw Error("it does not end with a commit");
  }
  if (folded_) {
    end_compacted();
  } else if (metadata_) {
    const std::uint64_t size = decoder_.offset() - begin_offset_;
    if (size != metadata_->wal_size || decoder_.sum() != metadata_->wal_sum) fail_frames();
    last_sequence_ = metadata_->last_sequence;
  }
  if (commit_offset_ != 0) reached_ = Reached{{*index_, commit_offset_}, time_};
}

// The next segment goes on where those ended that it stands for.
void WalReplay::end_compacted() {
  if (folded_->header()->page_size != metadata_->page_size) fail_frames();
  wal::Header header;
  header.page_size = metadata_->page_size;
  header.salt = metadata_->wal_salt;
  decoder_ = wal::Decoder(header, metadata_->wal_sum, begin_offset_ + metadata_->wal_size);
  commit_offset_ = decoder_.offset();
  last_sequence_ = metadata_->last_sequence;
  folded_.reset();
}

}  // namespace sqlstream
