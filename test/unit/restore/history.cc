#include "test/unit/restore/history.h"

#include <algorithm>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <sys/stat.h>

#include "format/lz4_frame.h"
#include "format/names.h"

namespace sqlstream::test {

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_file(const std::string& path, ByteView data) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
  if (!file) throw std::runtime_error("cannot write " + path);
}

History::History(std::string folder, Generation generation, std::uint32_t page_size, bool ours,
                 Time begin, std::optional<GenerationEnd> after)
    : folder_(std::move(folder)), generation_(generation), page_size_(page_size), ours_(ours) {
  // The first page of a database, as far as a restore looks at it.
  image_.resize(page_size_);
  const std::string_view magic{"SQLite format 3\0", 16};
  std::copy(magic.begin(), magic.end(), image_.begin());
  const std::uint32_t stored = page_size == 65536 ? 1 : page_size;
  image_[16] = static_cast<std::uint8_t>(stored >> 8);
  image_[17] = static_cast<std::uint8_t>(stored);
  write_snapshot(begin, after);
  points_.push_back({begin, {0, 0}, image_});
}

void History::write_object(const std::string& key, const Metadata& metadata, ByteView data) {
  Bytes object;
  if (ours_) object = encode_metadata(metadata);
  lz4::Compressor compressor;
  compressor.write(data, object);
  compressor.finish(object);
  write_file(path(key), object);
  if (!ours_) {
    const auto ns = metadata.last_commit.time_since_epoch().count();
    const timespec time{ns / 1'000'000'000, ns % 1'000'000'000};
    const timespec times[2] = {time, time};
    ::utimensat(AT_FDCWD, path(key).c_str(), times, 0);
  }
  keys_.push_back(key);
}

void History::roll() {
  ++position_.index;
  position_.offset = 0;
}

void History::snapshot(Time time) {
  if (position_.offset > 0) roll();
  write_snapshot(time, {});
}

void History::write_snapshot(Time time, std::optional<GenerationEnd> after) {
  Metadata metadata;
  metadata.kind = Metadata::Kind::snapshot;
  metadata.first_commit = metadata.last_commit = time;
  metadata.pages = metadata.database_size = size();
  metadata.page_size = page_size_;
  metadata.last_sequence = sequence_;
  metadata.after = after;
  write_object(names::snapshot_key(generation_, position_.index), metadata, image_);
}

void History::batch(const Images& images, std::uint32_t size, std::size_t parts, Time time) {
  Bytes data;
  if (position_.offset == 0) {
    salt_ = {position_.index + 1, page_size_};
    const wal::Encoder header(page_size_, salt_, position_.index, data);
    sum_ = header.sum();
  }
  const std::size_t header_size = data.size();
  std::vector<wal::Checksum> sums{sum_};  // after each frame
  wal::Encoder encoder(page_size_, salt_, sum_, position_.offset + header_size);
  for (std::size_t i = 0; i < images.size(); ++i) {
    const auto& [page, image] = images[i];
    encoder.append(page, i + 1 == images.size() ? size : 0, image, data);
    sums.push_back(encoder.sum());
  }
  sum_ = encoder.sum();

  // As capture does: the old end goes first, then the new images within the size.
  image_.resize(std::min<std::size_t>(image_.size(), std::size_t{size} * page_size_));
  image_.resize(std::size_t{size} * page_size_);
  for (const auto& [page, image] : images) {
    if (page > size) continue;
    std::copy(image.begin(), image.end(), image_.begin() + std::ptrdiff_t{page - 1} * page_size_);
  }

  ++sequence_;
  const std::size_t frame = wal::kFrameHeaderSize + page_size_;
  std::size_t begin = 0;
  for (std::size_t part = 1; part <= parts; ++part) {
    // Ours are cut between frames, others anywhere.
    std::size_t end = part == parts ? data.size() : data.size() * part / parts;
    if (ours_ && part < parts && end > header_size) end -= (end - header_size) % frame;
    if (end <= begin || (part < parts && end <= header_size)) continue;
    Metadata metadata;
    metadata.first_commit = metadata.last_commit = time;
    metadata.commits = 1;
    metadata.pages = static_cast<std::uint32_t>((end - begin) / frame);
    metadata.page_size = page_size_;
    metadata.database_size = size;
    metadata.ends_on_commit = part == parts;
    if (begin > 0) {
      metadata.batch_frame = static_cast<std::uint32_t>((begin - header_size) / frame);
    }
    metadata.first_sequence = metadata.last_sequence = sequence_;
    metadata.wal_size = end - begin;
    metadata.wal_salt = salt_;
    metadata.wal_sum = sums[(end - header_size) / frame];
    write_object(names::segment_key(generation_, {position_.index, position_.offset + begin}),
                 metadata, ByteView(data).subspan(begin, end - begin));
    begin = end;
  }
  position_.offset += data.size();
  points_.push_back({time, position_, image_});
}

}  // namespace sqlstream::test
