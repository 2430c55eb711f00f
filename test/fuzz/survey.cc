// What a restore plans from: a replica's listing and the metadata of its objects, which whoever can
// write to the bucket decides.

#include "restore/survey.h"

#include <map>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include "format/names.h"
#include "test/fuzz/input.h"

using namespace sqlstream;

namespace {

/// In memory; what is listed may be gone when it is read.
class Replica final : public Store {
 public:
  struct Object {
    Bytes content;
    Time modified{};
    bool gone = false;
  };
  std::map<std::string, Object> objects;

  const std::string& url() const override { return url_; }

  asio::awaitable<Listing> list(ListQuery query) override {
    Listing listing;
    for (const auto& [key, object] : objects) {
      if (!key.starts_with(query.prefix) || key <= query.start_after) continue;
      if (query.folders) {
        listing.folders.push_back(key.substr(0, key.find('/', query.prefix.size()) + 1));
      } else if (query.limit == 0 || listing.objects.size() < query.limit) {
        listing.objects.push_back({key, object.content.size(), object.modified});
      }
    }
    co_return listing;
  }

  asio::awaitable<Bytes> get(std::string key, std::optional<ByteRange> range) override {
    const auto found = objects.find(key);
    if (found == objects.end() || found->second.gone) {
      throw StoreError(StoreError::Kind::not_found, "there is no " + key);
    }
    const ByteView content = found->second.content;
    const ByteView part = content.first(std::min<std::size_t>(content.size(), range->size));
    co_return Bytes(part.begin(), part.end());
  }

  asio::awaitable<void> put(std::string, Bytes, PutOptions) override { std::abort(); }
  asio::awaitable<std::unique_ptr<Upload>> start_upload(std::string, std::uint64_t,
                                                        PutOptions) override {
    std::abort();
  }
  asio::awaitable<void> remove(std::vector<std::string>) override { std::abort(); }

 private:
  std::string url_ = "fuzz://replica";
};

Time time_of(fuzz::Input& input) {
  return Time(std::chrono::seconds(input.byte()));
}

// Numbers so small that objects meet.
Position position_of(fuzz::Input& input) {
  const std::uint8_t both = input.byte();
  return {both / 16U, both % 16U};
}

Bytes content_of(fuzz::Input& input, std::uint8_t flags, Metadata::Kind kind, Position begin,
                 std::uint64_t end) {
  if ((flags & 1) != 0) {
    const ByteView raw = input.take(input.byte());
    return {raw.begin(), raw.end()};
  }
  Metadata metadata;
  metadata.kind = (flags & 2) != 0 ? Metadata::Kind::snapshot : kind;
  const std::uint8_t second = input.byte();
  metadata.last_commit = Time(std::chrono::seconds(second));
  metadata.last_sequence = second % 8U;
  if (kind == Metadata::Kind::snapshot && begin.offset != 0) {
    metadata.after = GenerationEnd{{begin.offset % 4}, begin.offset / 2};
  }
  metadata.wal_size = (flags & 4) != 0 ? input.byte() : end - begin.offset;
  metadata.ends_on_commit = (flags & 8) == 0;
  Bytes content = encode_metadata(metadata);
  // Longer than what is read first.
  if ((flags & 16) != 0) content = Bytes{0x50, 0x2A, 0x4D, 0x18, 0, 8, 0, 0};
  if ((flags & 16) != 0) content.resize(4096);
  if ((flags & 32) != 0) content[input.byte() % content.size()] ^= 1;
  return content;
}

void add_object(fuzz::Input& input, Replica& replica) {
  const std::uint8_t kind = input.byte();
  if (kind == 0xff) {  // as many as one answer has
    const std::string prefix = names::wal_prefix(Generation{0});
    if (replica.objects.contains(prefix + '0')) return;
    for (int i = 0; i < 1000; ++i) replica.objects[prefix + std::to_string(i)];
    return;
  }
  const std::uint8_t flags = input.byte();
  const Generation generation{kind / 4U % 4U};
  const Position begin = position_of(input);
  std::string key;
  Bytes content;
  if (kind >= 0xf0) {  // what others put there
    key = names::kGenerations;
    key.append(as_text(input.take(input.byte())));
  } else if (kind % 4 == 0) {
    key = names::snapshot_key(generation, begin.index);
    content = content_of(input, flags, Metadata::Kind::snapshot, begin, begin.offset);
  } else if (kind % 4 == 1) {
    const std::uint8_t length = input.byte();
    const std::uint64_t end = begin.offset + 1 + (length < 0xf0 ? length % 16U : 1U << 20);
    key = names::compacted_key(generation, begin, end, 1 + kind / 16U);
    content = content_of(input, flags, Metadata::Kind::compacted, begin, end);
  } else {
    key = names::segment_key(generation, begin);
    content = content_of(input, flags, Metadata::Kind::segment, begin, begin.offset + 1);
  }
  if ((flags & 64) != 0) key.back() ^= 1;
  replica.objects[key] = {content, time_of(input), (flags & 128) != 0};
}

asio::awaitable<void> plan(Store& store, const RestoreOptions& options) {
  try {
    const RestorePlan plan = co_await survey(store, options);
    // What it says can be restored has no gap, and nothing before or behind what was asked for.
    fuzz::require(!first_gap(plan));
    for (const auto& segment : plan.segments) {
      fuzz::require(segment.position.index >= plan.snapshot.index);
      fuzz::require(!options.until || segment.position < *options.until);
    }
    (void)describe_reach(co_await reach_before(store, plan, plan.segments.size()));
    for (const auto& segment : plan.segments) {
      if (segment.level != 0) (void)co_await size_behind(store, plan.generation, segment);
    }
  } catch (const Error& error) {
    fuzz::require(error.what()[0] != '\0');
  }
  try {
    const RestoreTarget target = co_await find_target(store, options);
    fuzz::require(!is_newer(target, target));
    // In another replica.
    for (const GenerationEnd& end : target.after) {
      const RestoreTarget older{end.generation, Time::max(), end.sequence, {}};
      fuzz::require(end.sequence == 0 || is_newer(target, older));
    }
  } catch (const Error& error) {
    fuzz::require(error.what()[0] != '\0');
  }
}

}  // namespace

FUZZ(data, size) {
  fuzz::Input input(data, size);
  const std::uint8_t flags = input.byte();
  RestoreOptions options;
  if ((flags & 1) != 0) options.generation = Generation{input.byte() % 4U};
  if ((flags & 2) != 0) options.index = input.byte();
  if ((flags & 4) != 0) options.timestamp = time_of(input);
  if ((flags & 8) != 0) options.until = position_of(input);
  options.compacted = (flags & 16) == 0;
  Replica replica;
  while (!input.empty()) add_object(input, replica);
  asio::io_context context(1);
  asio::co_spawn(context, plan(replica, options), asio::detached);
  context.run();
  return 0;
}
