#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

namespace sqlstream::model {

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

/// Breadth first, so that what is found is found by a shortest way. A `Model` has the types State,
/// Bug and Limits, first(), successors(), violation() and fingerprint().
template <class Model>
class Search {
 public:
  using State = typename Model::State;

  Search(typename Model::Bug bug, const typename Model::Limits& limits) : model_(bug, limits) {}

  /// What is wrong in the nearest state where something is; null: nothing anywhere.
  const char* run() {
    reach(model_.first(), {});
    while (!open_.empty()) {
      const auto [state, number] = std::move(open_.front());
      open_.pop_front();
      bool quiet = true;
      for (const auto& next : model_.successors(state)) {
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

  void reach(const State& state, Reached by) {
    if (!seen_.insert(Model::fingerprint(state))) return;
    open_.push_back({state, static_cast<std::uint32_t>(steps_.size())});
    steps_.push_back(by);
  }

  Model model_;
  Seen seen_;
  std::deque<std::pair<State, std::uint32_t>> open_;
  std::vector<Reached> steps_;
  std::uint32_t at_ = 0;
};

}  // namespace sqlstream::model
