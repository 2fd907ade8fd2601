#include "table/journal.h"

#include <algorithm>
#include <span>

namespace headrace {
namespace {

constexpr size_t kSlack = 1024;
constexpr size_t kBlock = 256;  // entries whose rows are looked up together

template <typename T>
void MakeRoom(std::vector<T>* values, size_t count) {
  if (values->size() + count > values->capacity()) {
    values->reserve(std::max(values->size() + count, 2 * values->capacity()));
  }
}

}  // namespace

void Journal::Reserve(size_t count, const LiveMarks& live) {
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

template <typename Visit>
void Journal::ForEach(uint64_t since, const LiveMarks& live, Visit visit) const {
  size_t run = RunAfter(since);
  if (run == runs_.size()) return;
  uint64_t marks[kBlock];
  for (size_t start = StartOf(run); start < ids_.size(); start += kBlock) {
    const size_t count = std::min(kBlock, ids_.size() - start);
    live(std::span<const int64_t>(ids_).subspan(start, count), marks);
    for (size_t i = 0; i < count; ++i) {
      while (start + i >= runs_[run].end) ++run;
      visit(ids_[start + i], runs_[run].mark, marks[i]);
    }
  }
}

std::vector<Journal::Removal> Journal::LastRemovals(uint64_t since, const LiveMarks& live) const {
  std::vector<Removal> removals;
  ForEach(since, live, [&](int64_t id, uint64_t mark, uint64_t row) {
    if (row == 0) removals.push_back({id, mark});
  });
  std::sort(removals.begin(), removals.end(),
            [](const Removal& x, const Removal& y) { return x.id != y.id ? x.id < y.id : x.mark > y.mark; });
  const auto same = [](const Removal& x, const Removal& y) { return x.id == y.id; };
  removals.erase(std::unique(removals.begin(), removals.end(), same), removals.end());
  return removals;
}

Journal::Since Journal::Read(uint64_t since, const LiveMarks& live) const {
  Since result;
  ForEach(since, live, [&](int64_t id, uint64_t mark, uint64_t row) {
    if (row == mark) result.put.push_back(id);
    if (row == 0) result.removed.push_back(id);
  });
  std::sort(result.removed.begin(), result.removed.end());
  result.removed.erase(std::unique(result.removed.begin(), result.removed.end()), result.removed.end());
  return result;
}

void Journal::Removals(const LiveMarks& live, std::vector<int64_t>* ids, std::vector<int64_t>* marks) const {
  const std::vector<Removal> removals = LastRemovals(floor_, live);
  ids->reserve(removals.size());
  marks->reserve(removals.size());
  for (const Removal& removal : removals) {
    ids->push_back(removal.id);
    marks->push_back(static_cast<int64_t>(removal.mark));
  }
}

void Journal::Compact(const LiveMarks& live) {
  std::vector<Removal> removals = LastRemovals(floor_, live);
  std::sort(removals.begin(), removals.end(), [](const Removal& x, const Removal& y) {
    return x.mark != y.mark ? x.mark < y.mark : x.id < y.id;
  });
  // Live entries are in order of marks already; merge both kinds by mark into fresh storage.
  std::vector<int64_t> ids;
  std::vector<Run> runs;
  size_t next = 0;
  const auto keep = [&](int64_t id, uint64_t mark) {
    ids.push_back(id);
    if (runs.empty() || runs.back().mark != mark) runs.push_back({mark, 0});
    runs.back().end = ids.size();
  };
  const auto removals_before = [&](uint64_t mark) {
    for (; next < removals.size() && removals[next].mark < mark; ++next)
      keep(removals[next].id, removals[next].mark);
  };
  ForEach(floor_, live, [&](int64_t id, uint64_t mark, uint64_t row) {
    if (row != mark) return;
    removals_before(mark);
    keep(id, mark);
  });
  removals_before(~uint64_t{0});
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
