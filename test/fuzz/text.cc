// Short texts from listings, headers, flags, settings and answers: keys, times, durations, sizes,
// profiles, credentials.

#include "base/clock.h"
#include "capture/outbox_log.h"
#include "config/units.h"
#include "format/names.h"
#include "store/s3/http.h"
#include "store/s3/metadata_credentials.h"
#include "store/s3/profiles.h"
#include "test/fuzz/input.h"

using namespace sqlstream;
using fuzz::require;

namespace {

// A key that is taken is written the same again: nothing else can hide in it.
void keys(std::string_view text) {
  if (const auto generation = names::parse_generation(text)) {
    require(text.starts_with(names::generation_prefix(*generation)));
  }
  if (const auto snapshot = names::parse_snapshot_key(text)) {
    require(names::snapshot_key(snapshot->generation, snapshot->index) == text);
  }
  if (const auto segment = names::parse_segment_key(text)) {
    require(names::segment_key(segment->generation, segment->position) == text);
  }
  if (const auto compacted = names::parse_compacted_key(text)) {
    require(names::compacted_key(compacted->generation, compacted->begin, compacted->end,
                                 compacted->level) == text);
  }
  if (const auto first = capture::parse_log_file_name(text)) {
    require(capture::log_file_name(*first) == text);
  }
}

void times(std::string_view text, Time any) {
  if (const auto time = parse_rfc3339(text)) {
    require(parse_rfc3339(format_rfc3339(*time)) == time);
  }
  if (const auto time = http::parse_date(text)) {
    require(parse_rfc3339(format_rfc3339(*time)) == time);
  }
  require(parse_rfc3339(format_rfc3339(any)).value_or(any) == any);
  if (const auto pause = http::parse_retry_after(text, any)) require(pause->count() >= 0);
}

void units(std::string_view text) {
  if (const auto duration = config::parse_duration(text)) {
    require(config::parse_duration(config::format_duration(*duration)) == duration);
  }
  (void)config::parse_size(text);
  (void)config::parse_bool(text);
}

void encodings(std::string_view text) {
  require(http::percent_decode(http::percent_encode(text, false), false) == text);
  require(http::percent_decode(http::percent_encode(text, true), true) == text);
  (void)http::percent_decode(text, true);
  const std::string value(text);
  require(!http::find_header({}, text) && http::find_header({{"x", ""}, {value, ""}}, text));
  Profiles profiles;
  read_profiles(text, true, profiles);
  read_profiles(text, false, profiles);
}

void credentials(std::string_view text) {
  const auto found = parse_metadata_credentials(as_bytes(text));
  require(!found || found->keys.complete());
}

}  // namespace

FUZZ(data, size) {
  fuzz::Input input(data, size);
  const auto nanos = static_cast<std::int64_t>(input.number(8));
  const std::string_view text = as_text(input.rest());
  keys(text);
  times(text, Time(std::chrono::nanoseconds(nanos)));
  units(text);
  encodings(text);
  credentials(text);
  return 0;
}
