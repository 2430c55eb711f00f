#include "format/metadata.h"

#include <array>
#include <limits>
#include <string_view>

#define XXH_INLINE_ALL
#include <nlohmann/json.hpp>
#include <xxhash.h>

#include "base/json.h"
#include "base/patience.h"
#include "format/hex.h"
#include "format/lz4_frame.h"

namespace sqlstream {
namespace {

using Json = nlohmann::ordered_json;

// The payload is {"sqlstream":<version>,…,"sum":"<XXH3 of all before this key's comma, hex>"}: a
// skippable frame has no checksum of its own.
constexpr std::string_view kBegin = "{\"sqlstream\":";
constexpr std::string_view kSumKey = ",\"sum\":\"";
constexpr std::string_view kEnd = "\"}";
constexpr std::size_t kSumDigits = 16;
constexpr std::size_t kTrailerSize = kSumKey.size() + kSumDigits + kEnd.size();

// A range GET of the first KiB is to hold the whole frame.
constexpr std::size_t kLargestPayload = 1024 - 8;

constexpr std::string_view kSnapshot = "snapshot";
constexpr std::string_view kSegment = "segment";
constexpr std::string_view kCompacted = "compacted";

std::string_view name_of(Metadata::Kind kind) {
  switch (kind) {
    case Metadata::Kind::snapshot:
      return kSnapshot;
    case Metadata::Kind::segment:
      return kSegment;
    case Metadata::Kind::compacted:
      break;
  }
  return kCompacted;
}

std::string sum_of(std::string_view text) {
  return to_hex(XXH3_64bits(text.data(), text.size()), kSumDigits);
}

std::string with_sum(const JsonObject& json) {
  std::string text = json.text();
  text.pop_back();  // the closing brace
  const std::string sum = sum_of(text);
  return text.append(kSumKey).append(sum).append(kEnd);
}

std::string pair(const std::array<std::uint32_t, 2>& numbers) {
  return '[' + std::to_string(numbers[0]) + ',' + std::to_string(numbers[1]) + ']';
}

std::int64_t to_nanos(Time time) {
  return time.time_since_epoch().count();
}

Time to_time(std::int64_t nanos) {
  return Time{std::chrono::nanoseconds{nanos}};
}

[[noreturn]] void fail_damaged() {
  throw DamagedMetadata("the metadata in front of the object is damaged");
}

// Reads the keys of one object; an absent key leaves the value as it is.
class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {}

  template <class Integer>
  void read(const char* key, Integer& value) const {
    const auto found = json_.find(key);
    if (found != json_.end()) value = integer<Integer>(*found);
  }
  void read(const char* key, Time& value) const {
    std::int64_t nanos = to_nanos(value);
    read(key, nanos);
    value = to_time(nanos);
  }
  void read(const char* key, bool& value) const {
    const auto found = json_.find(key);
    if (found == json_.end()) return;
    if (!found->is_boolean()) fail_damaged();
    value = found->get<bool>();
  }
  void read(const char* key, std::string& value) const {
    const auto found = json_.find(key);
    if (found == json_.end()) return;
    if (!found->is_string()) fail_damaged();
    value = found->get<std::string>();
  }
  void read(const char* key, std::optional<Generation>& value) const {
    if (!json_.contains(key)) return;
    std::string name;
    read(key, name);
    value = Generation::parse(name);
    if (!value) fail_damaged();
  }
  void read(const char* key, std::array<std::uint32_t, 2>& value) const {
    const auto found = json_.find(key);
    if (found == json_.end()) return;
    if (!found->is_array() || found->size() != 2) fail_damaged();
    value = {integer<std::uint32_t>((*found)[0]), integer<std::uint32_t>((*found)[1])};
  }

 private:
  template <class Integer>
  static Integer integer(const Json& json) {
    using Limits = std::numeric_limits<Integer>;
    if (json.is_number_unsigned()) {
      const auto n = json.get<std::uint64_t>();
      if (n > static_cast<std::uint64_t>(Limits::max())) fail_damaged();
      return static_cast<Integer>(n);
    }
    if (!json.is_number_integer() || !Limits::is_signed) fail_damaged();
    return static_cast<Integer>(json.get<std::int64_t>());
  }

  const Json& json_;
};

}  // namespace

Bytes encode_metadata(const Metadata& metadata) {
  JsonObject json;
  json.add("sqlstream", Metadata::kFormatVersion)
      .add("kind", name_of(metadata.kind))
      .add("first", to_nanos(metadata.first_commit))
      .add("last", to_nanos(metadata.last_commit))
      .add("commits", metadata.commits)
      .add("pages", metadata.pages)
      .add("page_size", metadata.page_size)
      .add("db_size", metadata.database_size);
  if (!metadata.ends_on_commit) json.add("ends_on_commit", false);
  json.add("first_seq", metadata.first_sequence)
      .add("last_seq", metadata.last_sequence)
      .add("chain", metadata.chain);
  if (metadata.batch_frame != 0) json.add("batch_frame", metadata.batch_frame);
  json.add_json("src_salt", pair(metadata.source_salt)).add("src_frame", metadata.source_frame);
  if (metadata.kind != Metadata::Kind::snapshot) {
    json.add("wal_size", metadata.wal_size)
        .add_json("wal_salt", pair(metadata.wal_salt))
        .add_json("wal_sum", pair(metadata.wal_sum));
  }
  if (metadata.after) {
    json.add("after", metadata.after->generation.str()).add("after_seq", metadata.after->sequence);
  }
  JsonObject with_host = json;
  with_host.add("host", metadata.host);
  JsonObject with_both = with_host;
  with_both.add("db", metadata.database);
  std::string text;
  for (const JsonObject* most : {&with_both, &with_host, &json}) {
    text = with_sum(*most);
    if (text.size() <= kLargestPayload) break;
  }
  return lz4::skippable_frame(as_bytes(text));
}

std::optional<Metadata> decode_metadata(ByteView head) {
  const auto payload = lz4::parse_skippable_frame(head);
  if (!payload) return std::nullopt;
  const std::string_view text = as_text(*payload);

  const std::string_view trailer =
      text.size() < kTrailerSize ? std::string_view{} : text.substr(text.size() - kTrailerSize);
  const bool sum_follows = trailer.starts_with(kSumKey) && trailer.ends_with(kEnd);
  if (!text.starts_with(kBegin) && !sum_follows) return std::nullopt;
  if (!sum_follows || trailer.substr(kSumKey.size(), kSumDigits) !=
                          sum_of(text.substr(0, text.size() - kTrailerSize))) {
    fail_damaged();
  }

  // The parser allocates where it may not throw, which ends the process.
  const PatienceMeanwhile patient(Patience::everything);
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) fail_damaged();
  const Reader reader(json);
  int version = 0;
  reader.read("sqlstream", version);
  if (version < 1) fail_damaged();
  if (version > Metadata::kFormatVersion) {
    throw Error("the object was written in format version " + std::to_string(version) +
                ", newer than this sqlstream reads: use a newer sqlstream");
  }

  Metadata m;
  std::string kind;
  reader.read("kind", kind);
  if (kind == kSnapshot) {
    m.kind = Metadata::Kind::snapshot;
  } else if (kind == kSegment) {
    m.kind = Metadata::Kind::segment;
  } else if (kind == kCompacted) {
    m.kind = Metadata::Kind::compacted;
  } else {
    fail_damaged();
  }
  reader.read("first", m.first_commit);
  reader.read("last", m.last_commit);
  reader.read("commits", m.commits);
  reader.read("pages", m.pages);
  reader.read("page_size", m.page_size);
  reader.read("db_size", m.database_size);
  reader.read("ends_on_commit", m.ends_on_commit);
  reader.read("first_seq", m.first_sequence);
  reader.read("last_seq", m.last_sequence);
  reader.read("chain", m.chain);
  reader.read("batch_frame", m.batch_frame);
  reader.read("src_salt", m.source_salt);
  reader.read("src_frame", m.source_frame);
  reader.read("wal_size", m.wal_size);
  reader.read("wal_salt", m.wal_salt);
  reader.read("wal_sum", m.wal_sum);
  std::optional<Generation> after;
  reader.read("after", after);
  if (after) {
    m.after = GenerationEnd{*after};
    reader.read("after_seq", m.after->sequence);
  }
  reader.read("host", m.host);
  reader.read("db", m.database);
  return m;
}

}  // namespace sqlstream
