#include "table/removals.h"

#include <algorithm>

namespace headrace {
namespace {

constexpr size_t kSlack = 1024;
constexpr size_t kBlock = 256;  // entries looked up together

template <typename T>
void MakeRoom(std::vector<T>* values, size_t count) {
  if (values->size() + count > values->capacity()) {
    values->reserve(std::max(values->size() + count, values->capacity() + values->capacity() / 2));
  }
}

}  // namespace

void Removals::Reserve(size_t count, const Present& present) {
  if (ids_.size() - head_ + count > 2 * settled_ + kSlack) Compact(present);
  MakeRoom(&ids_, count);
  MakeRoom(&runs_, 1);
}

void Removals::Add(uint64_t mark, int64_t id) {
  ids_.push_back(id);
  if (runs_.size() > first_run_ && runs_.back().mark == mark) {
    runs_.back().end = ids_.size();
  } else {
    runs_.push_back({mark, ids_.size()});
  }
}

size_t Removals::RunAfter(uint64_t mark) const {
  const auto begin = runs_.begin() + static_cast<std::ptrdiff_t>(first_run_);
  const auto after =
      std::upper_bound(begin, runs_.end(), mark, [](uint64_t m, const Run& run) { return m < run.mark; });
  return static_cast<size_t>(after - runs_.begin());
}

std::vector<Removals::Entry> Removals::Last(uint64_t since, const Present& present) const {
  std::vector<Entry> last;
  size_t run = RunAfter(since);
  if (run == runs_.size()) return last;
  uint8_t here[kBlock];
  for (size_t start = StartOf(run); start < ids_.size(); start += kBlock) {
    const size_t count = std::min(kBlock, ids_.size() - start);
    present(std::span<const int64_t>(ids_).subspan(start, count), here);
    for (size_t i = 0; i < count; ++i) {
      while (start + i >= runs_[run].end) ++run;
      if (!here[i]) last.push_back({ids_[start + i], runs_[run].mark});
    }
  }
  std::sort(last.begin(), last.end(),
            [](const Entry& x, const Entry& y) { return x.id != y.id ? x.id < y.id : x.mark > y.mark; });
  const auto same = [](const Entry& x, const Entry& y) { return x.id == y.id; };
  last.erase(std::unique(last.begin(), last.end(), same), last.end());
  return last;
}

std::vector<int64_t> Removals::Since(uint64_t since, const Present& present) const {
  const std::vector<Entry> last = Last(since, present);
  std::vector<int64_t> ids(last.size());
  std::transform(last.begin(), last.end(), ids.begin(), [](const Entry& entry) { return entry.id; });
  return ids;
}

void Removals::Compact(const Present& present) {
  std::vector<Entry> last = Last(floor_, present);
  std::sort(last.begin(), last.end(),
            [](const Entry& x, const Entry& y) { return x.mark != y.mark ? x.mark < y.mark : x.id < y.id; });
  std::vector<int64_t> ids;
  std::vector<Run> runs;
  ids.reserve(last.size());
  for (const Entry& entry : last) {
    ids.push_back(entry.id);
    if (runs.empty() || runs.back().mark != entry.mark) runs.push_back({entry.mark, 0});
    runs.back().end = ids.size();
  }
  ids_ = std::move(ids);
  runs_ = std::move(runs);
  head_ = first_run_ = 0;
  settled_ = ids_.size();
}

void Removals::Forget(uint64_t mark) {
  if (mark <= floor_) return;
  const size_t run = RunAfter(mark);
  head_ = run > first_run_ ? runs_[run - 1].end : head_;
  first_run_ = run;
  floor_ = mark;
  Trim();
}

void Removals::Limit(int64_t limit, const Present& present) {
  if (entries() <= limit) return;
  Compact(present);
  if (entries() <= limit) return;
  const auto keep = static_cast<size_t>(limit / 2);
  const size_t last = ids_.size() - keep - 1;  // the newest entry that must go
  const auto run = std::find_if(runs_.begin(), runs_.end(), [&](const Run& one) { return one.end > last; });
  Forget(run->mark);
}

// Gives memory back once more than half of the storage is forgotten: amortised O(1) an entry.
void Removals::Trim() {
  if (head_ * 2 < ids_.size() && first_run_ * 2 < runs_.size()) return;
  for (size_t run = first_run_; run < runs_.size(); ++run) runs_[run].end -= head_;
  ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(head_));
  runs_.erase(runs_.begin(), runs_.begin() + static_cast<std::ptrdiff_t>(first_run_));
  head_ = first_run_ = 0;
  settled_ = std::min(settled_, ids_.size());
  if (ids_.capacity() > 4 * ids_.size() + kSlack) ids_.shrink_to_fit();
  if (runs_.capacity() > 4 * runs_.size() + kSlack) runs_.shrink_to_fit();
}

int64_t Removals::bytes() const {
  return static_cast<int64_t>(ids_.capacity() * sizeof(int64_t) + runs_.capacity() * sizeof(Run));
}

}  // namespace headrace
