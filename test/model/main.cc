// model: looks at every state that the protocol can reach within small bounds, and shows of each
// rule that the check fails without it.
//
//   model            the protocol, then each seeded bug
//   model BUG        the shortest way to what that bug leads to
//   model -long      the protocol within wider bounds

#include <cstdio>
#include <string_view>

#include "test/model/in_place.h"
#include "test/model/model.h"
#include "test/model/reading.h"
#include "test/model/search.h"

using namespace sqlstream::model;

namespace {

/// Each with all interleavings. Bounds that are in different histories would multiply.
constexpr std::array kHistories = {
    Limits{.name = "a kill and a lost answer", .commits = 2, .kills = 1, .lost_answers = 1},
    Limits{.name = "three commits and a lost answer", .commits = 3, .lost_answers = 1},
    Limits{.name = "a close and a kill", .commits = 1, .closes = 1, .kills = 1},
    Limits{.name = "three commits and a kill", .commits = 3, .kills = 1},
    Limits{.name = "exclusive locking and a kill", .commits = 2, .kills = 1, .exclusive = true},
    Limits{.name = "a wait that runs out", .commits = 2, .expired_waits = 1},
    Limits{.name = "two closes and a wait that runs out",
           .commits = 1,
           .closes = 2,
           .expired_waits = 1},
    Limits{.name = "two commits, a close and a wait that runs out",
           .commits = 2,
           .closes = 1,
           .expired_waits = 1},
    Limits{.name = "a program without the shim", .commits = 2, .strangers = 1},
    Limits{.name = "a program without the shim between two runs",
           .commits = 2,
           .closes = 1,
           .strangers = 1,
           .exclusive = true},
    Limits{.name = "a power failure", .commits = 2, .power_failures = 1},
    Limits{.name = "a close and a power failure",
           .commits = 2,
           .closes = 1,
           .power_failures = 1,
           .exclusive = true},
    Limits{.name = "padding frames, and a program without the shim",
           .commits = 3,
           .strangers = 1,
           .padded = true},
    Limits{.name = "a kill, and an old copy in the file's place",
           .commits = 2,
           .kills = 1,
           .replaced = 1},
    Limits{.name = "damage in the outbox", .commits = 3, .damages = 1},
    Limits{.name = "a fold, a kill and a lost answer",
           .commits = 2,
           .kills = 1,
           .lost_answers = 1,
           .folds = 1},
    Limits{.name = "a store without conditional PUTs", .commits = 2, .unconditional_store = true},
    Limits{.name = "a commit without a wal-index", .commits = 2, .closes = 1, .unseen = 1},
    Limits{.name = "a page size that changes between two runs",
           .commits = 2,
           .closes = 1,
           .strangers = 1,
           .page_sizes = 1,
           .exclusive = true},
    Limits{.name = "generations that end", .commits = 1, .doubts = 3},
    Limits{.name = "a full outbox", .commits = 3, .bound = 2},
    Limits{.name = "a full outbox and a kill", .commits = 2, .kills = 1, .bound = 1},
    Limits{.name = "a store that does not answer",
           .commits = 3,
           .closes = 1,
           .bound = 2,
           .silent_store = true},
    Limits{.name = "a kill and a lost answer, in every order",
           .commits = 2,
           .kills = 1,
           .lost_answers = 1,
           .every_order = true},
};
enum History {
  kKillAndLost,
  kLost,
  kCloseAndKill,
  kThreeAndKill,
  kExclusive,
  kWait,
  kWaitAndClose,
  kTwoWaitAndClose,
  kStranger,
  kStrangerBetween,
  kPower,
  kCloseAndPower,
  kPadded,
  kReplaced,
  kDamaged,
  kFolded,
  kUnconditional,
  kUnseen,
  kPageSize,
  kEnding,
  kFull,
  kFullAndKill,
  kSilent,
  kEveryOrder
};

/// Take minutes, and gigabytes.
constexpr std::array kLongHistories = {
    Limits{.name = "three commits and two kills", .commits = 3, .kills = 2},
    Limits{.name = "three commits, a kill and a lost answer",
           .commits = 3,
           .kills = 1,
           .lost_answers = 1},
    Limits{.name = "three commits, a close and a kill", .commits = 3, .closes = 1, .kills = 1},
};

struct Seeded {
  const char* name;
  History history;  ///< where it is found
};

constexpr std::array<Seeded, static_cast<std::size_t>(Bug::count)> kBugs = {{
    {"none", kLost},
    {"unvalidated_capture", kWait},
    {"no_capture_in_background", kLost},
    {"no_capture_at_checkpoint", kExclusive},
    {"no_capture_at_reset", kStranger},
    {"no_capture_at_close", kCloseAndKill},
    {"unmapped_under_a_capture", kCloseAndKill},
    {"role_maps_by_itself", kCloseAndKill},
    {"no_capture_lock", kLost},
    {"torn_record_counts", kKillAndLost},
    {"expired_wait_is_forgotten", kWaitAndClose},
    {"end_mark_ignored", kWait},
    {"forked_child_keeps_locks", kCloseAndKill},
    {"frame_not_compared", kPower},
    {"undone_reset_not_found", kKillAndLost},
    {"empty_reset_is_trusted", kStranger},
    {"commits_not_counted", kStranger},
    {"file_identity_is_trusted", kStrangerBetween},
    {"identity_is_racy", kStrangerBetween},
    {"identity_outlives_the_boot", kCloseAndPower},
    {"counter_outlives_the_index", kStrangerBetween},
    {"wal_overwritten_unnoticed", kStranger},
    {"no_reset_mark", kKillAndLost},
    {"no_clean_mark", kCloseAndKill},
    {"clean_mark_unlocked", kStrangerBetween},
    {"second_reset_unstamped", kThreeAndKill},
    {"two_shippers", kUnconditional},
    {"segment_before_snapshot", kLost},
    {"snapshot_without_newer", kLost},
    {"snapshot_without_older", kLost},
    {"lost_answer_is_success", kLost},
    {"existing_key_is_ours", kLost},
    {"unconditional_put", kLost},
    {"chain_not_compared", kPower},
    {"ended_is_not_compared", kPower},
    {"longer_replica_is_trusted", kPower},
    {"padding_counts", kPadded},
    {"replaced_file_goes_on", kReplaced},
    {"unseen_write_is_stamped", kUnseen},
    {"page_size_not_compared", kPageSize},
    {"damage_is_passed_over", kDamaged},
    {"begun_without_a_pause", kEnding},
    {"starts_counted_alone", kEnding},
    {"bound_ignored", kFull},
    {"dropped_when_full", kFull},
    {"begun_when_full", kFull},
    {"full_for_ever", kFullAndKill},
    {"reset_waits_for_the_store", kSilent},
    {"located_is_answered", kFolded},
    {"folded_over_an_end", kFolded},
}};

/// The protocol of a snapshot in place, by itself.
constexpr std::array kInPlaceHistories = {
    in_place::Limits{"a snapshot in place", 4, 2, 0, 0, 0},
    in_place::Limits{"… and a kill", 3, 3, 1, 0, 0},
    in_place::Limits{"… and a program without the shim", 3, 2, 0, 1, 0},
    in_place::Limits{"… a kill, and a program without the shim", 3, 2, 1, 1, 0},
    in_place::Limits{"… a failure, and a program without the shim", 3, 2, 0, 1, 1},
};
enum InPlaceHistory { kAlone, kKilled, kWithStranger, kKilledWithStranger, kFailedWithStranger };

struct SeededInPlace {
  const char* name;
  InPlaceHistory history;
};

constexpr std::array<SeededInPlace, static_cast<std::size_t>(in_place::Bug::count)> kInPlaceBugs = {
    {
        {"none", kAlone},
        {"page_not_saved", kAlone},
        {"saved_behind_the_write", kAlone},
        {"byte_before_image", kAlone},
        {"looked_before_read", kAlone},
        {"cursor_before_read", kAlone},
        {"wal_not_overlaid", kAlone},
        {"no_capture_before_checkpoint", kAlone},
        {"earlier_attempts_ignored", kWithStranger},
        {"last_attempt_ignored", kWithStranger},
        {"other_wal_ignored", kWithStranger},
        {"dead_checkpointer_ignored", kKilledWithStranger},
        {"open_at_the_end_ignored", kKilledWithStranger},
        {"broken_off_is_ended", kFailedWithStranger},
        {"failed_save_ignored", kFailedWithStranger},
    }};

/// How a capture reads, by itself.
constexpr std::array kReadingHistories = {
    reading::Limits{"a capture beside three commits and two resets", 3, 2, 0},
    reading::Limits{"… two commits, a reset and a kill", 2, 1, 1},
};
enum ReadingHistory { kBeside, kBesideAKill };

struct SeededReading {
  const char* name;
  ReadingHistory history;
};

constexpr std::array<SeededReading, static_cast<std::size_t>(reading::Bug::count)> kReadingBugs = {{
    {"none", kBeside},
    {"one_header_copy", kBeside},
    {"header_checksum_ignored", kBesideAKill},
    {"uninitialised_counts", kBeside},
    {"header_not_read_again", kBeside},
}};

template <class Model>
void print(const char* found, const Search<Model>& search) {
  for (const Line& line : search.way()) {
    const bool of_all = line.what[0] >= 'A' && line.what[0] <= 'Z';
    static constexpr std::array kNames = {"P", "Q", "stranger"};
    std::printf("  %s %s\n", of_all ? "" : kNames.at(line.process), line.what);
  }
  std::printf("=> %s\n", found);
}

/// Nothing may be wrong anywhere.
template <class Model>
bool is_sound(const typename Model::Limits& limits) {
  Search<Model> search(Model::Bug::none, limits);
  const char* found = search.run();
  if (found != nullptr) print(found, search);
  std::printf("%s: %zu states\n", limits.name, search.states());
  std::fflush(stdout);
  return found == nullptr;
}

/// Something must be found.
template <class Model>
bool is_caught(const char* name, std::size_t bug, const typename Model::Limits& limits,
               bool verbose) {
  Search<Model> search(static_cast<typename Model::Bug>(bug), limits);
  const char* found = search.run();
  if (found == nullptr) {
    std::printf("%s: NOT FOUND in %zu states\n", name, search.states());
  } else if (verbose) {
    print(found, search);
  } else {
    std::printf("%s: %s (%zu states, %zu steps)\n", name, found, search.states(),
                search.way().size());
  }
  std::fflush(stdout);
  return found != nullptr;
}

/// All bugs, or the one of that name; how many there were, and whether each was caught.
struct Caught {
  int bugs = 0;
  bool all = true;
};

template <class Model, class Bugs, class Histories>
Caught catch_bugs(const Bugs& bugs, const Histories& histories, std::string_view only) {
  Caught caught;
  for (std::size_t i = 1; i < bugs.size(); ++i) {
    if (!only.empty() && only != bugs[i].name) continue;
    ++caught.bugs;
    caught.all &= is_caught<Model>(bugs[i].name, i, histories[bugs[i].history], !only.empty());
  }
  return caught;
}

}  // namespace

int main(int argc, char** argv) {
  bool good = true;
  const std::string_view only = argc > 1 ? argv[1] : "";
  if (only == "-long") {
    for (const Limits& limits : kLongHistories) good &= is_sound<Model>(limits);
    return good ? 0 : 1;
  }
  if (only.empty()) {
    for (const Limits& limits : kHistories) good &= is_sound<Model>(limits);
    for (const auto& limits : kInPlaceHistories) good &= is_sound<in_place::Model>(limits);
    for (const auto& limits : kReadingHistories) good &= is_sound<reading::Model>(limits);
  }
  const Caught one = catch_bugs<Model>(kBugs, kHistories, only);
  const Caught two = catch_bugs<in_place::Model>(kInPlaceBugs, kInPlaceHistories, only);
  const Caught three = catch_bugs<reading::Model>(kReadingBugs, kReadingHistories, only);
  if (one.bugs + two.bugs + three.bugs == 0) {
    std::fprintf(stderr, "model: no such bug: %s\n", argv[1]);
    return 2;
  }
  return good && one.all && two.all && three.all ? 0 : 1;
}
