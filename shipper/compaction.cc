#include "shipper/compaction.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <utility>

#include "base/error.h"
#include "format/segment_merge.h"

namespace sqlstream {
namespace {

constexpr std::size_t kFewest = 8;  // of small segments before a large one
constexpr std::uint64_t kLargest = CompactionPlan::kRunBytes / 4;
constexpr std::uint64_t kPiece = 128 << 10;

bool follows(const replica::Segment& segment, const replica::Segment& last) {
  return segment.position == Position{last.position.index, last.end};
}

bool inside(const replica::Segment& segment, const replica::Segment& other) {
  return segment.position.index == other.position.index &&
         segment.position.offset >= other.position.offset && segment.end <= other.end &&
         segment.level < other.level;
}

// What a segment holds is wrong; not the store, nor this host.
class Damage : public Error {
 public:
  using Error::Error;
};

}  // namespace

void CompactionPlan::close(Run& run, std::size_t fewest) {
  if (run.size() >= fewest) ready_.push_back(std::move(run));
  run.clear();
}

void CompactionPlan::add(const replica::Segment& segment) {
  if (segment.level >= kTopLevel) return;
  Run& run = runs_[segment.level];
  std::uint64_t& bytes = bytes_[segment.level];
  const bool plain = segment.level == 0;
  const std::size_t full = plain ? kSegments : kFanIn;
  const std::uint64_t size = segment.end - segment.position.offset;
  if (run.empty()) bytes = 0;
  if (plain && size > kLargest) {
    close(run, kFewest);
    return;
  }
  if (!run.empty() && (!follows(segment, run.back()) || (plain && bytes + size > kRunBytes))) {
    close(run, plain ? kFewest : full);
    bytes = 0;
  }
  run.push_back(segment);
  bytes += size;
  if (run.size() == full) close(run, full);
}

std::optional<std::vector<replica::Segment>> CompactionPlan::next() const {
  if (ready_.empty()) return std::nullopt;
  return ready_.front();
}

void Compaction::shipped(Generation generation, const replica::Segment& segment) {
  if (generation != generation_) {
    generation_ = generation;
    plan_ = {};
    looked_ = false;
    last_.reset();
    covered_.clear();
    passed_over_.clear();
    meanwhile_.clear();
  }
  // Behind an answer that was lost, there is one more than it was told of.
  if (last_ && segment.position.offset != 0 && !follows(segment, *last_)) looked_ = false;
  plan_.add(segment);
  if (looking_) meanwhile_.push_back(segment);
  last_ = segment;
}

// What was there before this process shipped, or while the plan was not told of it. What is shipped
// during the look comes behind what it finds: there may always be something.
asio::awaitable<void> Compaction::look() {
  looked_ = true;  // unless shipped() finds out meanwhile that it must be done again
  const replica::Segment last = *last_;
  const Generation generation = generation_;
  const std::uint32_t index = last.position.index;
  auto compacted = co_await replica::list_compacted(store_, generation);
  std::erase_if(compacted, [&](const auto& s) { return s.position.index != index; });
  Position at{index, 0};
  for (const auto& segment : compacted) at.offset = std::max(at.offset, segment.end);
  std::optional<Position> after;
  if (at.offset > 0) {
    after = Position{index, at.offset - 1};
  } else if (index > 0) {
    after = Position{index - 1, UINT32_MAX};
  }
  auto segments = co_await replica::list_segments(store_, generation, after);
  if (!looked_) co_return;

  plan_ = {};
  covered_.clear();
  for (const auto& segment : compacted) {
    const bool folded = std::any_of(compacted.begin(), compacted.end(),
                                    [&](const auto& other) { return inside(segment, other); });
    if (folded) {
      covered_.push_back(replica::key_of(generation, segment));
    } else {
      plan_.add(segment);
    }
  }
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].position.index != index || segments[i].position > last.position) continue;
    segments[i].end = i + 1 < segments.size() && segments[i + 1].position.index == index
                          ? segments[i + 1].position.offset
                          : last.end;
    plan_.add(segments[i]);
  }
  for (const auto& segment : meanwhile_) plan_.add(segment);
}

asio::awaitable<std::uint64_t> Compaction::run(const std::function<bool()>& wanted) {
  std::exception_ptr failure;
  std::uint64_t written = 0;
  try {
    if (!looked_) {
      looking_ = true;
      meanwhile_.clear();
      co_await look();
    }
    looking_ = false;
    if (looked_) written = co_await fold_next(wanted);
  } catch (...) {
    failure = std::current_exception();
  }
  looking_ = false;
  if (!failure) co_return written;
  // Nothing waits for it: another look shows it again.
  if (due()) plan_.pop();
  looked_ = false;
  std::rethrow_exception(failure);
}

asio::awaitable<std::uint64_t> Compaction::fold_next(const std::function<bool()>& wanted) {
  const auto inputs = plan_.next();
  if (!inputs) co_return 0;
  const Generation generation = generation_;
  replica::Segment output = inputs->front();
  output.end = inputs->back().end;
  ++output.level;
  std::string key = replica::key_of(generation, output);
  if (passed_over_.contains(key)) {
    plan_.pop();
    co_return 0;
  }
  bool folded = true;
  std::string damage;
  std::uint64_t written = 0;
  try {
    const auto stored = co_await fold(*inputs, output, wanted);
    if (!stored) co_return 0;
    output.size = written = *stored;
  } catch (const SegmentMerge::Unsuitable&) {
    folded = false;
  } catch (const StoreError& e) {
    // From an upload whose answer was lost, or a process that died: it holds the same.
    if (e.kind() != StoreError::Kind::exists) throw;
  } catch (const Damage& e) {
    folded = false;
    damage = e.what();
  }
  if (!damage.empty()) {
    log::warn(damage +
                  ", so it and those around it are not compacted; sqlstream verify tells whether "
                  "the replica restores",
              fields_);
  }
  if (generation != generation_) co_return written;
  plan_.pop();
  if (!folded) {
    passed_over_.insert(std::move(key));
    co_return 0;
  }
  plan_.add(output);
  auto keys = std::exchange(covered_, {});
  if (output.level > 1) {
    for (const auto& input : *inputs) covered_.push_back(replica::key_of(generation, input));
  }
  if (!keys.empty()) co_await deletion_.remove(std::move(keys));
  co_return written;
}

asio::awaitable<std::optional<std::uint64_t>> Compaction::fold(
    const std::vector<replica::Segment>& inputs, const replica::Segment& output,
    const std::function<bool()>& wanted) {
  const Generation generation = generation_;
  std::vector<SegmentMerge::Span> spans;
  std::uint64_t stored = 0;
  for (const auto& input : inputs) {
    spans.push_back({input.position.offset, input.end});
    stored += input.size;
  }
  SegmentMerge merge(output.position.index, spans);
  const auto read = [&](auto step) {
    try {
      return step();
    } catch (const SegmentMerge::Unsuitable&) {
      throw;
    } catch (const Error& e) {
      throw Damage("object " + store_.url() + "/" +
                   replica::key_of(generation, inputs[merge.reading()]) + " is damaged (" +
                   e.what() + ")");
    }
  };
  std::vector<std::uint64_t> taken(inputs.size());
  std::unique_ptr<Upload> upload;
  std::uint64_t written = 0;
  while (!merge.done()) {
    Bytes out;
    if (!wanted() || generation != generation_) co_return std::nullopt;
    const auto lacking = co_await on_worker([&] { return read([&] { return merge.run(out); }); });
    if (!out.empty()) {
      if (upload == nullptr) {
        PutOptions options;
        options.if_absent = true;
        options.modified = merge.metadata().last_commit;
        upload = co_await store_.start_upload(replica::key_of(generation, output), stored, options);
      }
      written += out.size();
      co_await upload->write(std::move(out));
    }
    if (!lacking) continue;
    const std::size_t i = *lacking;
    Bytes piece =
        co_await store_.get(replica::key_of(generation, inputs[i]), ByteRange{taken[i], kPiece});
    taken[i] += piece.size();
    const bool last = piece.size() < kPiece;
    read([&] { merge.give(i, std::move(piece), last); });
  }
  if (!wanted() || generation != generation_) co_return std::nullopt;
  co_await upload->finish();
  co_return written;
}

}  // namespace sqlstream
