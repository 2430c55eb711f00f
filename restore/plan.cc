#include "restore/plan.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <tuple>

#include "base/error.h"
#include "restore/restore.h"

namespace sqlstream {

Time object_time(Time stored, const std::optional<Metadata>& metadata) {
  return metadata ? metadata->last_commit : stored;
}

namespace {

// It may have gone on behind the place where the other one found its end: where two processes had
// copies of one outbox, or the machine was set back.
bool ended_at(Generation generation, std::uint64_t sequence, const GenerationEnd& end) {
  return generation == end.generation && sequence != 0 && sequence <= end.sequence;
}

// Those that no other one was begun behind.
std::vector<GenerationSpan> not_succeeded(std::span<const GenerationSpan> spans) {
  std::vector<GenerationSpan> last;
  std::copy_if(spans.begin(), spans.end(), std::back_inserter(last), [&](const auto& span) {
    return std::none_of(spans.begin(), spans.end(), [&](const GenerationSpan& other) {
      return other.after && ended_at(span.generation, span.sequence, *other.after);
    });
  });
  // Each behind another one: nobody of ours wrote that.
  return last.empty() ? std::vector(spans.begin(), spans.end()) : last;
}

}  // namespace

Generation newest_generation(std::span<const GenerationSpan> spans) {
  const auto last = not_succeeded(spans);
  return std::max_element(last.begin(), last.end(),
                          [](const GenerationSpan& a, const GenerationSpan& b) {
                            return std::tuple(a.latest, a.committed, a.earliest) <
                                   std::tuple(b.latest, b.committed, b.earliest);
                          })
      ->generation;
}

std::optional<GenerationSpan> contradicting(std::span<const GenerationSpan> spans,
                                            Generation newest) {
  std::optional<GenerationSpan> latest;
  for (const GenerationSpan& span : not_succeeded(spans)) {
    if (!latest || span.committed > latest->committed) latest = span;
  }
  const auto chosen = std::find_if(spans.begin(), spans.end(), [&](const GenerationSpan& span) {
    return span.generation == newest;
  });
  if (!chosen->committed || latest->committed <= chosen->committed) return std::nullopt;
  return latest;
}

std::vector<GenerationEnd> ancestors(std::span<const GenerationSpan> spans, Generation generation) {
  std::vector<GenerationEnd> all;
  // Not longer than there are any, whoever wrote them.
  while (all.size() < spans.size()) {
    const auto span = std::find_if(spans.begin(), spans.end(), [&](const GenerationSpan& one) {
      return one.generation == generation;
    });
    if (span == spans.end() || !span->after) break;
    all.push_back(*span->after);
    generation = span->after->generation;
  }
  return all;
}

bool is_newer(const RestoreTarget& a, const RestoreTarget& b) {
  const auto begun_behind = [](const RestoreTarget& one, const RestoreTarget& other) {
    return std::any_of(one.after.begin(), one.after.end(), [&](const GenerationEnd& end) {
      return ended_at(other.generation, other.sequence, end);
    });
  };
  const bool behind = begun_behind(a, b);
  return behind != begun_behind(b, a) ? behind : a.latest > b.latest;
}

Generation generation_at(std::span<const GenerationSpan> spans, Time moment) {
  std::vector<GenerationSpan> begun;
  std::vector<GenerationSpan> covering;
  for (const auto& span : spans) {
    if (span.earliest > moment) continue;
    begun.push_back(span);
    if (moment <= span.latest) covering.push_back(span);
  }
  if (begun.empty()) {
    const auto first = std::min_element(
        spans.begin(), spans.end(),
        [](const GenerationSpan& a, const GenerationSpan& b) { return a.earliest < b.earliest; });
    throw NothingToRestore(
        "no matching backups found: cannot restore to " + format_rfc3339(moment) +
        ", which is before the first snapshot: the earliest moment that can be restored is " +
        format_rfc3339(first->earliest) + " (generation " + first->generation.str() + ")");
  }
  if (covering.size() > 1) {
    // One generation ending at the very moment the next begins is a hand-over, not an overlap.
    std::erase_if(covering, [&](const GenerationSpan& span) {
      return span.latest == moment && span.earliest < moment;
    });
    const bool hand_over = covering.size() == 1 && covering.front().earliest == moment;
    if (!hand_over) {
      std::string names;
      for (const auto& span : spans) {
        if (span.earliest > moment || span.latest < moment) continue;
        names += (names.empty() ? "" : ", ") + span.generation.str();
      }
      throw Error("cannot restore to " + format_rfc3339(moment) +
                  ", because several generations have data for that moment: choose one of " +
                  names + " with -generation");
    }
  }
  return newest_generation(covering.empty() ? begun : covering);
}

std::vector<replica::Segment> fewest_covering(std::span<const replica::Segment> compacted,
                                              Position begin, Position until) {
  std::vector<replica::Segment> chosen;
  for (const auto& segment : compacted) {
    const Position end{segment.position.index, segment.end};
    if (segment.position < begin || end > until) continue;
    if (!chosen.empty()) {
      auto& last = chosen.back();
      if (segment.position == last.position) {
        if (segment.end > last.end) last = segment;
        continue;
      }
      if (segment.position < Position{last.position.index, last.end}) continue;
    }
    chosen.push_back(segment);
  }
  return chosen;
}

bool is_behind_compacted(const RestorePlan& plan, std::size_t at) {
  return std::any_of(plan.segments.begin(),
                     plan.segments.begin() + static_cast<std::ptrdiff_t>(at + 1),
                     [](const replica::Segment& segment) { return segment.level != 0; });
}

std::optional<std::size_t> first_gap(const RestorePlan& plan) {
  std::uint64_t index = plan.snapshot.index;  // one behind the last must not be the first
  for (std::size_t i = 0; i < plan.segments.size(); ++i) {
    const Position position = plan.segments[i].position;
    const bool begins_plan = i == 0;
    const bool same_index = position.index == index && !begins_plan;
    if (same_index) continue;
    // An index that holds nothing has no segment; the snapshot's own index may be such a one.
    const bool follows = begins_plan ? position.index <= index + 1 : position.index == index + 1;
    if (!follows || position.offset != 0) return i;
    index = position.index;
  }
  return std::nullopt;
}

std::string describe_position(Generation generation, Position position) {
  char text[40];
  std::snprintf(text, sizeof text, "/%08x:%08llx", position.index,
                static_cast<unsigned long long>(position.offset));
  return generation.str() + text;
}

std::string describe_reach(const Reach& reach) {
  return "a restore can go to " + describe_position(reach.generation, reach.position) +
         ", with -generation " + reach.generation.str() + " -timestamp " +
         format_rfc3339(reach.time);
}

}  // namespace sqlstream
