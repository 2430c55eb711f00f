#include "format/segment_merge.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace sqlstream {
namespace {

constexpr std::size_t kSlice = 4096;  // inflates to 1 MiB at most, and the block before
constexpr std::size_t kOutput = 256 << 10;
// Sizes are what whoever wrote an input says. Pages without an image are few in what SQLite writes.
constexpr std::uint64_t kMostZeros = 64 << 20;

}  // namespace

SegmentMerge::SegmentMerge(std::uint32_t index, const std::vector<Span>& inputs)
    : index_(index), room_(kLargestBlock) {
  for (const Span& span : inputs) {
    Input& input = inputs_.emplace_back();
    input.span = span;
    if (&input != inputs_.data() && inputs_[inputs_.size() - 2].span.end != span.begin) {
      throw Unsuitable("they are not adjacent");
    }
  }
}

void SegmentMerge::give(std::size_t input, Bytes stored, bool last) {
  Input& to = inputs_[input];
  reading_ = input;
  if (!to.metadata) {
    to.metadata = decode_metadata(stored);
    if (!to.metadata) throw Unsuitable("one was not written by sqlstream");
  }
  to.stored = std::move(stored);
  to.taken = 0;
  to.last_given = last;
}

// All metadata is there.
void SegmentMerge::begin(Bytes& out) {
  const Metadata& first = *inputs_.front().metadata;
  const Metadata& last = *inputs_.back().metadata;
  if (first.batch_frame != 0 || !last.ends_on_commit) {
    throw Unsuitable("they begin or end inside a transaction");
  }
  page_size_ = first.page_size;
  size_ = last.database_size;
  if (!wal::is_valid_page_size(page_size_)) throw Unsuitable("one has no page size");

  metadata_ = last;
  metadata_.kind = Metadata::Kind::compacted;
  metadata_.first_commit = first.first_commit;
  metadata_.first_sequence = first.first_sequence;
  metadata_.pages = 0;
  metadata_.batch_frame = 0;
  metadata_.commits = 0;
  metadata_.wal_size = inputs_.back().span.end - inputs_.front().span.begin;
  std::uint32_t keep = std::numeric_limits<std::uint32_t>::max();
  for (auto input = inputs_.rbegin(); input != inputs_.rend(); ++input) {
    const Metadata& m = *input->metadata;
    if (m.kind == Metadata::Kind::snapshot || m.page_size != page_size_ ||
        m.wal_salt != last.wal_salt || m.wal_size != input->span.end - input->span.begin) {
      throw Unsuitable("they are not of one WAL");
    }
    input->keep = keep = std::min(keep, m.database_size);
    // The parts of a split transaction all tell of its commits.
    if (m.batch_frame == 0) metadata_.commits += m.commits;
  }
  next_zero_ = std::uint64_t{keep} + 1;
  for (std::size_t i = 1; i < inputs_.size(); ++i) follow(i);

  const Bytes head = encode_metadata(metadata_);
  out.insert(out.end(), head.begin(), head.end());
  encoder_.emplace(page_size_, last.wal_salt, index_, raw_);
  begun_ = true;
}

// Behind the one before it.
void SegmentMerge::follow(std::size_t input) {
  reading_ = input;
  const Metadata& before = *inputs_[input - 1].metadata;
  const Metadata& metadata = *inputs_[input].metadata;
  if (before.last_sequence != 0 && metadata.batch_frame == 0 &&
      metadata.first_sequence != before.last_sequence + 1) {
    throw Error("it does not go on where the one before it ended");
  }
  inputs_[input].sum = before.wal_sum;
}

ByteView SegmentMerge::image(const Input& input) const {
  return ByteView(input.decoded).subspan(input.frame + wal::kFrameHeaderSize, page_size_);
}

void SegmentMerge::read_header(Input& input) const {
  const auto header = wal::decode_header(input.decoded);
  if (!header || header->page_size != page_size_ || header->salt != metadata_.wal_salt) {
    throw Error("it does not begin with the header of its WAL");
  }
  input.frame = wal::kHeaderSize;
  input.sum = header->sum;
}

wal::FrameHeader SegmentMerge::read_frame(Input& input) const {
  const auto frame = ByteView(input.decoded).subspan(input.frame);
  const auto header = wal::decode_frame_header(frame);
  if (header.salt != metadata_.wal_salt) throw Error("it holds a frame with a wrong salt");
  if (input.sum && header.sum != wal::frame_checksum(*input.sum, frame, image(input), false)) {
    throw Error("it holds a frame with a wrong checksum");
  }
  if (header.page == 0) throw Error("it holds a frame without a page");
  input.sum = header.sum;
  return header;
}

// Has the next frame at hand, or the input's end. False: it lacks stored bytes.
bool SegmentMerge::fill(Input& input) {
  const std::size_t frame_size = wal::kFrameHeaderSize + page_size_;
  // How long an object is that was folded before, only its end tells.
  const bool plain = input.metadata->kind == Metadata::Kind::segment;
  const std::uint64_t length = input.span.end - input.span.begin;
  while (input.page == 0 && !input.ended) {
    if (!input.header_skipped) {
      const bool header = !plain || input.span.begin == 0;
      if (header && input.decoded.size() >= wal::kHeaderSize) read_header(input);
      input.header_skipped = !header || input.frame != 0;
    }
    if (input.header_skipped && input.decoded.size() - input.frame >= frame_size) {
      const auto header = read_frame(input);
      if (header.page <= input.last_page) throw Unsuitable("one is not ascending by page");
      input.page = input.last_page = header.page;
      input.last_commit_size = header.commit_size;
      return true;
    }
    if (input.taken < input.stored.size()) {
      input.decoded.erase(input.decoded.begin(),
                          input.decoded.begin() + static_cast<std::ptrdiff_t>(input.frame));
      if (input.header_skipped) input.frame = 0;
      const auto slice =
          ByteView(input.stored)
              .subspan(input.taken, std::min(kSlice, input.stored.size() - input.taken));
      input.taken += slice.size();
      input.decompressor.write(slice, room_, [&](ByteView data) {
        input.decoded.insert(input.decoded.end(), data.begin(), data.end());
        input.size += data.size();
      });
      if (plain && input.size > length) throw Error("it is longer than its name says");
      continue;
    }
    if (!input.last_given) return false;
    input.decompressor.finish();
    if (plain && input.size < length) throw Error("it is shorter than its name says");
    if (input.frame != input.decoded.size() || !input.header_skipped) {
      throw Error("it ends inside a frame");
    }
    if (input.metadata->ends_on_commit && input.last_commit_size != input.metadata->database_size) {
      throw Error("it does not end with its commit");
    }
    if (plain && input.sum != input.metadata->wal_sum) {
      throw Error("its frames are not the ones it was made of");
    }
    input.ended = true;
    input.decoded = Bytes();
    input.stored = Bytes();
  }
  return true;
}

void SegmentMerge::drop_frame(Input& input) {
  input.page = 0;
  input.frame += wal::kFrameHeaderSize + page_size_;
}

void SegmentMerge::flush(Bytes& out) {
  compressor_.write(raw_, out);
  raw_.clear();
}

void SegmentMerge::add(std::uint32_t page, ByteView image) {
  if (held_page_ != 0) encoder_->append(held_page_, 0, held_, raw_);
  held_page_ = page;
  held_.assign(image.begin(), image.end());
}

// False: raw_ must be flushed before it can go on.
bool SegmentMerge::add_zeros(std::uint32_t before) {
  for (; next_zero_ < before && next_zero_ <= size_; ++next_zero_) {
    if (raw_.size() >= kOutput) return false;
    const auto page = static_cast<std::uint32_t>(next_zero_);
    if (page == wal::lock_byte_page(page_size_)) continue;
    zeros_ += page_size_;
    if (zeros_ > kMostZeros) throw Unsuitable("they lack too many pages");
    add(page, Bytes(page_size_));
  }
  return true;
}

std::optional<std::size_t> SegmentMerge::run(Bytes& out) {
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (!inputs_[i].metadata) return i;
  }
  if (!begun_) begin(out);
  while (out.size() < kOutput) {
    std::uint32_t page = std::numeric_limits<std::uint32_t>::max();
    const Input* newest = nullptr;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      reading_ = i;
      if (!fill(inputs_[i])) return i;
      if (inputs_[i].page == 0 || inputs_[i].page > page) continue;
      page = inputs_[i].page;
      newest = &inputs_[i];
    }
    if (!add_zeros(page)) {
      flush(out);
      continue;
    }
    if (newest == nullptr) {
      if (held_page_ == 0) throw Unsuitable("they hold no pages");
      encoder_->append(held_page_, size_, held_, raw_);
      flush(out);
      compressor_.finish(out);
      done_ = true;
      return std::nullopt;
    }
    if (page <= newest->keep) {
      add(page, image(*newest));
      if (next_zero_ == page) ++next_zero_;
    }
    for (Input& input : inputs_) {
      if (input.page == page) drop_frame(input);
    }
    if (raw_.size() >= kOutput) flush(out);
  }
  return std::nullopt;
}

}  // namespace sqlstream
