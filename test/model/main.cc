// model: looks at every state that the protocol can reach within small bounds, and shows of each
// rule that the check fails without it.
//
//   model            the protocol, then each seeded bug
//   model BUG        the shortest way to what that bug leads to
//   model -long      the protocol within wider bounds

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string_view>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "test/model/model.h"

using namespace sqlstream::model;

namespace {

/// Each with all interleavings. Bounds that are in different histories would multiply.
constexpr std::array kHistories = {
    Limits{"a kill and a lost answer", 2, 0, 1, 0, 1, 0, 0},
    Limits{"three commits and a lost answer", 3, 0, 0, 0, 1, 0, 0},
    Limits{"a close and a kill", 1, 1, 1, 0, 0, 0, 0},
    Limits{"three commits and a kill", 3, 0, 1, 0, 0, 0, 0},
    Limits{"exclusive locking and a kill", 2, 0, 1, 0, 0, 0, 0, true},
    Limits{"a wait that runs out", 2, 0, 0, 0, 0, 1, 0},
    Limits{"two closes and a wait that runs out", 1, 2, 0, 0, 0, 1, 0},
    Limits{"a program without the shim", 2, 0, 0, 0, 0, 0, 1},
    Limits{"a program without the shim between two runs", 2, 1, 0, 0, 0, 0, 1, true},
    Limits{"a power failure", 2, 0, 0, 1, 0, 0, 0},
    Limits{"a close and a power failure", 2, 1, 0, 1, 0, 0, 0, true},
    Limits{"a store without conditional PUTs", 2, 0, 0, 0, 0, 0, 0, false, true},
};
enum History {
  kKillAndLost,
  kLost,
  kCloseAndKill,
  kThreeAndKill,
  kExclusive,
  kWait,
  kWaitAndClose,
  kStranger,
  kStrangerBetween,
  kPower,
  kCloseAndPower,
  kUnconditional
};

/// Take minutes, and gigabytes.
constexpr std::array kLongHistories = {
    Limits{"three commits and two kills", 3, 0, 2, 0, 0, 0, 0},
    Limits{"three commits, a kill and a lost answer", 3, 0, 1, 0, 1, 0, 0},
    Limits{"three commits, a close and a kill", 3, 1, 1, 0, 0, 0, 0, false},
};

struct Seeded {
  const char* name;
  History history;  ///< where it is found
};

constexpr std::array<Seeded, static_cast<std::size_t>(Bug::count)> kBugs = {{
    {"none", kLost},
    {"unvalidated_capture", kWait},
    {"no_capture_at_checkpoint", kExclusive},
    {"no_capture_at_reset", kStranger},
    {"no_capture_at_close", kCloseAndKill},
    {"no_capture_lock", kLost},
    {"torn_record_counts", kKillAndLost},
    {"expired_wait_is_forgotten", kWaitAndClose},
    {"frame_not_compared", kPower},
    {"undone_reset_not_found", kKillAndLost},
    {"empty_reset_is_trusted", kStranger},
    {"commits_not_counted", kStranger},
    {"file_identity_is_trusted", kStrangerBetween},
    {"identity_outlives_the_boot", kCloseAndPower},
    {"counter_outlives_the_index", kStrangerBetween},
    {"no_reset_mark", kKillAndLost},
    {"no_clean_mark", kCloseAndKill},
    {"second_reset_unstamped", kThreeAndKill},
    {"two_shippers", kUnconditional},
    {"segment_before_snapshot", kLost},
    {"snapshot_without_newer", kLost},
    {"snapshot_without_older", kLost},
    {"lost_answer_is_success", kLost},
    {"existing_key_is_ours", kLost},
    {"unconditional_put", kLost},
    {"chain_not_compared", kPower},
    {"longer_replica_is_trusted", kPower},
}};

struct Line {
  const char* what;
  int process;
};

/// What was seen, by 64 bits of hash, in a table that is at most half full.
class Seen {
 public:
  /// False when it is there already.
  bool insert(std::uint64_t hash) {
    if (count_ * 2 >= table_.size()) grow();
    std::uint64_t& place = find(hash);
    if (place != 0) return false;
    place = hash;
    ++count_;
    return true;
  }

 private:
  std::uint64_t& find(std::uint64_t hash) {
    std::size_t at = hash & (table_.size() - 1);
    while (table_[at] != 0 && table_[at] != hash) at = (at + 1) & (table_.size() - 1);
    return table_[at];
  }

  void grow() {
    const auto old = std::exchange(table_, std::vector<std::uint64_t>(table_.size() * 4));
    for (const std::uint64_t hash : old) {
      if (hash != 0) find(hash) = hash;
    }
  }

  std::vector<std::uint64_t> table_ = std::vector<std::uint64_t>(1 << 16);
  std::size_t count_ = 0;
};

/// Breadth first, so that what is found is found by a shortest way.
class Search {
 public:
  Search(Bug bug, const Limits& limits) : model_(bug, limits) {}

  /// What is wrong in the nearest state where something is; null: nothing anywhere.
  const char* run() {
    reach({}, {});
    while (!open_.empty()) {
      const auto [state, number] = std::move(open_.front());
      open_.pop_front();
      bool quiet = true;
      for (const Successor& next : model_.successors(state)) {
        quiet = quiet && next.environment;
        reach(next.state, {number, next.what, next.process});
      }
      if (const char* found = model_.violation(state, quiet)) {
        at_ = number;
        return found;
      }
    }
    return nullptr;
  }

  std::size_t states() const { return steps_.size(); }

  std::vector<Line> way() const {
    std::deque<Line> lines;
    for (std::uint32_t at = at_; steps_[at].what != nullptr; at = steps_[at].before) {
      lines.push_front({steps_[at].what, steps_[at].process});
    }
    return {lines.begin(), lines.end()};
  }

 private:
  struct Reached {
    std::uint32_t before = 0;
    const char* what = nullptr;
    int process = 0;
  };

  // The two processes are alike: which is which does not matter.
  static std::uint64_t fingerprint(const State& state) {
    State other = state;
    std::swap(other.process[0], other.process[1]);
    return std::min(XXH3_64bits(&state, sizeof state), XXH3_64bits(&other, sizeof other));
  }

  void reach(const State& state, Reached by) {
    if (!seen_.insert(fingerprint(state))) return;
    open_.push_back({state, static_cast<std::uint32_t>(steps_.size())});
    steps_.push_back(by);
  }

  Model model_;
  Seen seen_;
  std::deque<std::pair<State, std::uint32_t>> open_;
  std::vector<Reached> steps_;
  std::uint32_t at_ = 0;
};

void print(const char* found, const Search& search) {
  for (const Line& line : search.way()) {
    const bool of_all = line.what[0] >= 'A' && line.what[0] <= 'Z';
    std::printf("  %s %s\n", of_all ? "" : line.process == 0 ? "P" : "Q", line.what);
  }
  std::printf("=> %s\n", found);
}

/// Nothing may be wrong anywhere.
bool is_sound(const Limits& limits) {
  Search search(Bug::none, limits);
  const char* found = search.run();
  if (found != nullptr) print(found, search);
  std::printf("%s: %zu states\n", limits.name, search.states());
  std::fflush(stdout);
  return found == nullptr;
}

/// Something must be found.
bool is_caught(std::size_t bug, bool verbose) {
  Search search(static_cast<Bug>(bug), kHistories[kBugs[bug].history]);
  const char* found = search.run();
  if (found == nullptr) {
    std::printf("%s: NOT FOUND in %zu states\n", kBugs[bug].name, search.states());
  } else if (verbose) {
    print(found, search);
  } else {
    std::printf("%s: %s (%zu states, %zu steps)\n", kBugs[bug].name, found, search.states(),
                search.way().size());
  }
  std::fflush(stdout);
  return found != nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  bool good = true;
  if (argc > 1 && std::string_view(argv[1]) == "-long") {
    for (const Limits& limits : kLongHistories) good &= is_sound(limits);
    return good ? 0 : 1;
  }
  if (argc > 1) {
    for (std::size_t i = 1; i < kBugs.size(); ++i) {
      if (std::string_view(argv[1]) == kBugs[i].name) return is_caught(i, true) ? 0 : 1;
    }
    std::fprintf(stderr, "model: no such bug: %s\n", argv[1]);
    return 2;
  }
  for (const Limits& limits : kHistories) good &= is_sound(limits);
  for (std::size_t i = 1; i < kBugs.size(); ++i) good &= is_caught(i, false);
  return good ? 0 : 1;
}
