#include "table/journal.h"

#include <algorithm>

namespace headrace {
namespace {

constexpr size_t kSlack = 1024;

template <typename T>
void MakeRoom(std::vector<T>* values, size_t count) {
  if (values->size() + count > values->capacity()) {
    values->reserve(std::max(values->size() + count, 2 * values->capacity()));
  }
}

}  // namespace

void Journal::Reserve(size_t count, const LiveMark& live) {
  if (ids_.size() - head_ + count > 2 * settled_ + kSlack) Compact(live);
  MakeRoom(&ids_, count);
  MakeRoom(&runs_, 1);
}

void Journal::Add(uint64_t mark, int64_t id) {
  ids_.push_back(id);
  if (runs_.size() > first_run_ && runs_.back().mark == mark) {
    runs_.back().end = ids_.size();
  } else {
    runs_.push_back({mark, ids_.size()});
  }
}

size_t Journal::RunAfter(uint64_t mark) const {
  const auto begin = runs_.begin() + static_cast<std::ptrdiff_t>(first_run_);
  const auto after =
      std::upper_bound(begin, runs_.end(), mark, [](uint64_t m, const Run& run) { return m < run.mark; });
  return static_cast<size_t>(after - runs_.begin());
}

std::vector<Journal::Removal> Journal::LastRemovals(uint64_t since, const LiveMark& live) const {
  std::vector<Removal> removals;
  for (size_t run = RunAfter(since); run < runs_.size(); ++run) {
    for (size_t at = StartOf(run); at < runs_[run].end; ++at) {
      if (live(ids_[at]) == 0) removals.push_back({ids_[at], runs_[run].mark});
    }
  }
  std::sort(removals.begin(), removals.end(),
            [](const Removal& x, const Removal& y) { return x.id != y.id ? x.id < y.id : x.mark > y.mark; });
  const auto same = [](const Removal& x, const Removal& y) { return x.id == y.id; };
  removals.erase(std::unique(removals.begin(), removals.end(), same), removals.end());
  return removals;
}

Journal::Since Journal::Read(uint64_t since, const LiveMark& live) const {
  Since result;
  for (size_t run = RunAfter(since); run < runs_.size(); ++run) {
    for (size_t at = StartOf(run); at < runs_[run].end; ++at) {
      const uint64_t mark = live(ids_[at]);
      if (mark == runs_[run].mark) result.put.push_back(ids_[at]);
      if (mark == 0) result.removed.push_back(ids_[at]);
    }
  }
  std::sort(result.removed.begin(), result.removed.end());
  result.removed.erase(std::unique(result.removed.begin(), result.removed.end()), result.removed.end());
  return result;
}

void Journal::Removals(const LiveMark& live, std::vector<int64_t>* ids, std::vector<int64_t>* marks) const {
  const std::vector<Removal> removals = LastRemovals(floor_, live);
  ids->reserve(removals.size());
  marks->reserve(removals.size());
  for (const Removal& removal : removals) {
    ids->push_back(removal.id);
    marks->push_back(static_cast<int64_t>(removal.mark));
  }
}

void Journal::Compact(const LiveMark& live) {
  std::vector<Removal> removals = LastRemovals(floor_, live);
  std::sort(removals.begin(), removals.end(), [](const Removal& x, const Removal& y) {
    return x.mark != y.mark ? x.mark < y.mark : x.id < y.id;
  });
  // Live entries are in order of marks already; merge both kinds by mark into fresh storage.
  std::vector<int64_t> ids;
  std::vector<Run> runs;
  ids.reserve(removals.size());
  runs.reserve(runs_.size() - first_run_ + 1);
  size_t next = 0;
  for (size_t run = first_run_; run < runs_.size(); ++run) {
    const uint64_t mark = runs_[run].mark;
    const size_t start = ids.size();
    for (size_t at = StartOf(run); at < runs_[run].end; ++at) {
      if (live(ids_[at]) == mark) ids.push_back(ids_[at]);
    }
    for (; next < removals.size() && removals[next].mark == mark; ++next) ids.push_back(removals[next].id);
    if (ids.size() > start) runs.push_back({mark, ids.size()});
  }
  ids_ = std::move(ids);
  runs_ = std::move(runs);
  head_ = first_run_ = 0;
  settled_ = ids_.size();
}

void Journal::Forget(uint64_t mark) {
  if (mark <= floor_) return;
  const size_t run = RunAfter(mark);
  head_ = run > first_run_ ? runs_[run - 1].end : head_;
  first_run_ = run;
  floor_ = mark;
  Trim();
}

// Gives memory back once more than half of the storage is forgotten: amortised O(1) an entry.
void Journal::Trim() {
  if (head_ * 2 < ids_.size() && first_run_ * 2 < runs_.size()) return;
  for (size_t run = first_run_; run < runs_.size(); ++run) runs_[run].end -= head_;
  ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(head_));
  runs_.erase(runs_.begin(), runs_.begin() + static_cast<std::ptrdiff_t>(first_run_));
  head_ = first_run_ = 0;
  settled_ = std::min(settled_, ids_.size());
}

int64_t Journal::bytes() const {
  return static_cast<int64_t>(ids_.capacity() * sizeof(int64_t) + runs_.capacity() * sizeof(Run));
}

}  // namespace headrace
