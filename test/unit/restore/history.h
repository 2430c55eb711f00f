#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "format/metadata.h"
#include "format/position.h"
#include "format/wal.h"

namespace sqlstream::test {

/// Writes a generation into a folder, as a file:// replica holds it, and keeps what the database
/// was at each commit.
class History {
 public:
  /// `ours`: objects have sqlstream's metadata; else they are like Litestream's, and their times
  /// are the files'. `after`: what it was begun behind.
  History(std::string folder, Generation generation, std::uint32_t page_size, bool ours, Time begin,
          std::optional<GenerationEnd> after = {});

  using Images = std::vector<std::pair<std::uint32_t, Bytes>>;

  /// One batch that ends with a commit, over `parts` objects cut anywhere.
  void batch(const Images& images, std::uint32_t size, std::size_t parts, Time time);
  /// A snapshot of the database as it is, under a new index if this one has segments.
  void snapshot(Time time);
  /// Goes on with the next index.
  void roll();

  /// What a restore must give.
  struct Point {
    Time time{};
    Position position;
    Bytes image;
  };
  const std::vector<Point>& points() const { return points_; }
  /// Keys of all objects, in the order they were written.
  const std::vector<std::string>& keys() const { return keys_; }
  const Bytes& image() const { return image_; }
  std::uint32_t size() const { return static_cast<std::uint32_t>(image_.size() / page_size_); }
  std::string path(const std::string& key) const { return folder_ + "/" + key; }
  Generation generation() const { return generation_; }
  GenerationEnd end() const { return {generation_, sequence_}; }

 private:
  void write_snapshot(Time time, std::optional<GenerationEnd> after);
  void write_object(const std::string& key, const Metadata& metadata, ByteView data);

  std::string folder_;
  Generation generation_;
  std::uint32_t page_size_;
  bool ours_;
  Bytes image_;
  Position position_;
  wal::Salt salt_{};
  wal::Checksum sum_{};
  std::uint64_t sequence_ = 0;
  std::vector<Point> points_;
  std::vector<std::string> keys_;
};

Bytes read_file(const std::string& path);
void write_file(const std::string& path, ByteView data);

}  // namespace sqlstream::test
