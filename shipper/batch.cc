#include "shipper/batch.h"

#include <algorithm>
#include <sys/random.h>
#include <system_error>
#include <unistd.h>

#include "base/error.h"
#include "base/reserve_apart.h"
#include "format/lz4_frame.h"
#include "format/names.h"

namespace sqlstream {
namespace {

constexpr std::uint64_t kIndexSize = 0xffffffffULL;  // offsets are 8 hex digits
constexpr std::size_t kEncodeBuffer = 1 << 20;

wal::Salt random_salt() {
  wal::Salt salt{};
  if (::getrandom(salt.data(), sizeof salt, 0) != sizeof salt) {
    throw std::system_error(errno, std::generic_category(), "getrandom");
  }
  return salt;
}

Time to_time(std::int64_t ns) {
  return Time(std::chrono::nanoseconds(ns));
}

}  // namespace

bool OutboxReader::open_file(std::uint64_t first) {
  const std::string path = directory_ + '/' + capture::log_file_name(first);
  auto file = capture::LogFile::open(path, false);
  if (!file) return false;
  chain_ = file->header().state.chain;
  batch_chain_ = file->header().batch_chain;
  sequence_ = first - 1;
  offset_ = capture::LogFile::kHeaderSize;
  file_ = std::make_shared<capture::LogFile>(std::move(*file));
  return true;
}

bool OutboxReader::seek(std::uint64_t sequence, const std::vector<std::uint64_t>& files) {
  file_.reset();
  const auto after = std::upper_bound(files.begin(), files.end(), sequence + 1);
  if (after == files.begin()) return false;
  if (!open_file(*(after - 1))) return false;
  while (sequence_ < sequence) {
    if (!next(sequence)) break;
  }
  return sequence_ == sequence;
}

std::optional<Generation> OutboxReader::generation() const {
  if (!file_) return std::nullopt;
  return file_->header().generation;
}

std::optional<OutboxReader::Entry> OutboxReader::peek(std::uint64_t last) {
  if (!file_ || sequence_ >= last) return std::nullopt;
  while (true) {
    const auto found = file_->read(offset_, chain_, false);
    if (found && found->record.kind == capture::RecordKind::batch) {
      if (found->record.sequence > last) return std::nullopt;  // folded with later ones
      return Entry{file_, *found, sequence_ + 1};
    }
    if (found) {
      offset_ = found->end;
      chain_ = found->record.chain;
      continue;
    }
    // The file's end: what follows is in the file that begins with the next sequence.
    const std::string next_path = directory_ + '/' + capture::log_file_name(sequence_ + 1);
    if (file_->header().first == sequence_ + 1 || ::access(next_path.c_str(), F_OK) != 0 ||
        !open_file(sequence_ + 1)) {
      throw Error("the outbox is damaged: batch " + std::to_string(sequence_ + 1) +
                  " cannot be read from " + file_->path());
    }
  }
}

std::optional<OutboxReader::Entry> OutboxReader::next(std::uint64_t last) {
  auto entry = peek(last);
  if (entry) {
    offset_ = entry->found.end;
    chain_ = batch_chain_ = entry->found.record.chain;
    sequence_ = entry->found.record.sequence;
  }
  return entry;
}

std::optional<Generation> OutboxReader::next_generation(std::uint64_t last) {
  const auto entry = peek(last);
  if (!entry) return std::nullopt;
  return entry->file->header().generation;
}

std::optional<Time> first_commit_behind(const std::string& directory,
                                        const std::vector<std::uint64_t>& files,
                                        std::uint64_t sequence, std::uint64_t last) {
  OutboxReader reader(directory);
  // What is gone from the outbox is in a replica; then its oldest batch is the first one.
  const std::uint64_t oldest = files.front() - 1;
  if (!reader.seek(std::max(sequence, oldest), files)) reader.seek(oldest, files);
  const auto entry = reader.next(last);
  if (!entry) return std::nullopt;
  return Time(std::chrono::nanoseconds(entry->found.record.first_commit));
}

bool seek_behind(OutboxReader& reader, const ReplicaEnd& end,
                 const std::vector<std::uint64_t>& files) {
  if (!reader.seek(end.sequence, files) || reader.generation() != end.generation) return false;
  if (end.open_batch == 0) return reader.batch_chain() == end.chain;
  while (reader.next_generation(end.open_batch) == end.generation) reader.next(end.open_batch);
  return reader.batch_chain() == end.open_chain && reader.seek(end.sequence, files);
}

void Batch::add(const OutboxReader::Entry& entry) {
  const auto& record = entry.found.record;
  if (entries_.empty()) {
    page_size_ = record.page_size;
    first_sequence_ = entry.first_sequence;
    first_commit_ = record.first_commit;
  }
  const auto number = static_cast<std::uint32_t>(entries_.size());
  entries_.push_back(entry);
  last_ = record;
  commits_ += record.commits;
  pages_.begin_batch(record.database_size);
  const auto list = entry.file->read_pages(entry.found);
  pages_.expect(list.size());
  for (std::uint32_t i = 0; i < list.size(); ++i) {
    pages_.add(list[i].page, Image{number, i, list[i].hash});
  }
}

const Batch::Pages& Batch::pages() {
  for (const std::uint32_t page : pages_.cleared()) {
    if (page != wal::lock_byte_page(page_size_)) pages_.add(page, {kZeros, 0, 0});
  }
  return pages_.sorted();
}

void Batch::read(std::uint32_t page, const Image& image, std::span<std::uint8_t> out) const {
  if (image.entry == kZeros) {
    std::fill(out.begin(), out.end(), std::uint8_t{0});
    return;
  }
  const auto& entry = entries_[image.entry];
  entry.file->read_image(entry.found, image.index, {page, image.hash}, out);
}

SegmentEncoder::SegmentEncoder(std::shared_ptr<Batch> batch, const ReplicaEnd& end,
                               std::string host, std::string database, std::uint64_t object_size,
                               lz4::Effort effort)
    : batch_(std::move(batch)),
      pages_(batch_->pages()),
      end_(end),
      host_(std::move(host)),
      database_(std::move(database)),
      object_size_(object_size),
      effort_(effort) {
  if (pages_.empty()) {
    // A commit that leaves nothing (its pages are beyond the final size) still needs a commit
    // frame; page 1 is in every commit of SQLite's, so this is a batch no SQLite wrote.
    throw Error("batch " + std::to_string(batch_->last().sequence) + " has no pages");
  }
  const std::uint64_t frame = wal::kFrameHeaderSize + batch_->page_size();
  if (pages_.size() * frame > kIndexSize) {
    throw Error("a transaction of over 4 GiB is shipped as a new snapshot");
  }
  if (end_.open_batch != 0) {
    next_ = end_.open_frames;
    if (next_ >= pages_.size()) throw Error("the replica holds more of a batch than the outbox");
  } else if (end_.position.offset != 0 &&
             end_.position.offset + pages_.size() * frame > kIndexSize) {
    end_.position = {end_.position.index + 1, 0};
  }
}

SegmentObject SegmentEncoder::next() {
  const std::uint32_t page_size = batch_->page_size();
  const std::uint64_t frame = wal::kFrameHeaderSize + page_size;
  const std::size_t count =
      std::min(pages_.size() - next_, std::max<std::size_t>(1, object_size_ / frame));
  const bool last_object = next_ + count == pages_.size();

  SegmentObject object;
  object.key = names::segment_key(end_.generation, end_.position);
  object.begin = end_.position;
  object.frames = static_cast<std::uint32_t>(count);
  const std::size_t size = wal::kHeaderSize + count * frame;  // or less, without the header
  Bytes raw;
  raw.reserve(std::min(size, kEncodeBuffer + frame + wal::kHeaderSize));
  Bytes data;
  reserve_apart(data, count * frame);
  lz4::Compressor compressor(effort_, size);
  const std::uint64_t begin = end_.position.offset;
  if (begin == 0) end_.wal_salt = random_salt();
  auto encoder = begin == 0 ? wal::Encoder(page_size, end_.wal_salt, end_.position.index, raw)
                            : wal::Encoder(page_size, end_.wal_salt, end_.wal_sum, begin);
  Bytes image(page_size);
  for (std::size_t i = next_; i < next_ + count; ++i) {
    const auto& [page, place] = pages_[i];
    batch_->read(page, place, image);
    const bool commit = i + 1 == pages_.size();
    encoder.append(page, commit ? batch_->last().database_size : 0, image, raw);
    if (raw.size() >= kEncodeBuffer) {
      compressor.write(raw, data);
      raw.clear();
    }
  }
  compressor.write(raw, data);
  compressor.finish(data);

  Metadata metadata;
  metadata.kind = Metadata::Kind::segment;
  metadata.first_commit = to_time(batch_->first_commit());
  metadata.last_commit = to_time(batch_->last().last_commit);
  metadata.commits = batch_->commits();
  metadata.pages = object.frames;
  metadata.page_size = page_size;
  metadata.database_size = batch_->last().database_size;
  metadata.ends_on_commit = last_object;
  metadata.first_sequence = batch_->first_sequence();
  metadata.last_sequence = batch_->last().sequence;
  metadata.chain = batch_->last().chain;
  metadata.batch_frame = static_cast<std::uint32_t>(next_);
  metadata.source_salt = batch_->last().source.salt;
  metadata.source_frame = batch_->last().source.frame;
  metadata.wal_size = encoder.offset() - begin;
  metadata.wal_salt = end_.wal_salt;
  metadata.wal_sum = encoder.sum();
  metadata.host = host_;
  metadata.database = database_;
  const Bytes first = encode_metadata(metadata);
  data.insert(data.begin(), first.begin(), first.end());
  object.body = std::move(data);
  object.commit_time = metadata.last_commit;

  next_ += count;
  made_any_ = true;
  end_.last = end_.position;
  end_.position.offset = encoder.offset();
  end_.wal_sum = encoder.sum();
  end_.open_batch = last_object ? 0 : metadata.last_sequence;
  end_.open_frames = last_object ? 0 : static_cast<std::uint32_t>(next_);
  end_.open_chain = last_object ? 0 : metadata.chain;
  if (last_object) {
    end_.sequence = metadata.last_sequence;
    end_.chain = metadata.chain;
  }
  object.end = end_;
  return object;
}

}  // namespace sqlstream
