// Who goes when a table is full, against the specification written down with sorts.
#include <limits>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "table/check.h"
#include "table/steps.h"
#include "table/table.h"

namespace headrace {
namespace {

constexpr int64_t kLow = std::numeric_limits<int64_t>::min();
constexpr int64_t kHigh = std::numeric_limits<int64_t>::max();

struct Entry {
  int64_t time = 0;
  int64_t value = 0;  // frequency of a row, count of an id that waits
};

using Entries = std::map<int64_t, Entry>;

int64_t Going(int64_t excess, int64_t limit, int64_t others) {
  return excess <= 0 ? 0 : std::min(std::max(excess, limit / 64), others);
}

// What a table holds, but for the rows themselves.
class Model {
 public:
  explicit Model(const TableSpec& spec) : spec_(spec) {}

  void Update(const Batch& batch) {
    std::vector<size_t> fresh, waiting;
    for (size_t i = 0; i < batch.ids.size(); ++i) {
      newest_ = std::max(newest_, batch.times[i]);
      if (rows_.count(batch.ids[i]) != 0) continue;
      const auto counter = pending_.find(batch.ids[i]);
      const int64_t seen = counter == pending_.end() ? 0 : counter->second.value;
      const bool admitted = spec_.admission.kind == AdmissionKind::kAll ||
                            batch.counts[i] >= spec_.admission.occurrences - seen;
      (admitted ? fresh : waiting).push_back(i);
    }
    filtered_ += static_cast<int64_t>(waiting.size());
    std::set<int64_t> of_call(batch.ids.begin(), batch.ids.end());
    const int64_t evicted = Evict(of_call, static_cast<int64_t>(fresh.size()));
    const std::vector<size_t> refused = KeepMostFrequent(batch, spec_.capacity - Rows(), &fresh);
    filtered_ += static_cast<int64_t>(refused.size());
    admitted_ += static_cast<int64_t>(fresh.size());
    std::map<int64_t, Entry> before = pending_;
    for (const size_t i : refused) pending_.erase(batch.ids[i]);
    for (const size_t i : fresh) pending_.erase(batch.ids[i]);
    DropCounters(batch, &waiting);
    Learn(batch, fresh, before, evicted > 0);
    for (const size_t i : waiting) {
      const auto [counter, born] = pending_.try_emplace(batch.ids[i], Entry{batch.times[i], 0});
      counter->second.time = std::max(counter->second.time, batch.times[i]);
      counter->second.value += batch.counts[i];
    }
  }

  Code Assign(const std::vector<int64_t>& ids, const std::vector<int64_t>& times) {
    if (static_cast<int64_t>(ids.size()) > spec_.capacity) return Code::kFull;
    int64_t fresh = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      newest_ = std::max(newest_, times[i]);
      fresh += rows_.count(ids[i]) == 0;
    }
    if (Evict({ids.begin(), ids.end()}, fresh) > 0) Age();
    for (size_t i = 0; i < ids.size(); ++i) {
      pending_.erase(ids[i]);
      const auto [row, born] = rows_.try_emplace(ids[i], Entry{times[i], 0});
      row->second.time = std::max(row->second.time, times[i]);
    }
    return Code::kOk;
  }

  void Compare(const Table& table) const {
    const Parts parts = PartsOf(table);
    CHECK(static_cast<int64_t>(parts.ids.size()) <= spec_.capacity);
    CHECK(parts.ids == Ids(rows_) && parts.times == Times(rows_));
    for (size_t i = 0; i < std::min(parts.ids.size(), rows_.size()); ++i) {
      const auto row = rows_.find(parts.ids[i]);
      CHECK(row != rows_.end() && parts.frequencies[i] == (Rarest() ? row->second.value : 0));
    }
    CHECK(parts.pending_ids == Ids(pending_) && parts.pending_times == Times(pending_));
    std::vector<int64_t> counts;
    for (const auto& [id, entry] : pending_) counts.push_back(entry.value);
    CHECK(parts.pending_counts == counts);
    const Numbers& numbers = parts.numbers;
    CHECK(numbers.evicted == evicted_ && numbers.admitted == admitted_ && numbers.filtered == filtered_);
    CHECK(numbers.halvings == halvings_ && numbers.newest == newest_);
    Changes changes;
    CHECK(table.ReadChanges(0, &changes).ok());
    for (const int64_t id : changes.removed) CHECK(gone_.count(id) != 0 && rows_.count(id) == 0);
    size_t absent = 0;
    for (const int64_t id : gone_) absent += rows_.count(id) == 0;
    CHECK(changes.removed.size() == absent);
  }

  int64_t Rows() const { return static_cast<int64_t>(rows_.size()); }
  int64_t evicted() const { return evicted_; }

 private:
  bool Rarest() const { return spec_.victims == Victims::kRarest; }

  static std::vector<int64_t> Ids(const Entries& entries) {
    std::vector<int64_t> ids;
    for (const auto& [id, entry] : entries) ids.push_back(id);
    return ids;
  }
  static std::vector<int64_t> Times(const Entries& entries) {
    std::vector<int64_t> times;
    for (const auto& [id, entry] : entries) times.push_back(entry.time);
    return times;
  }

  bool Expired(int64_t time) const {
    return spec_.ttl_us >= 0 && newest_ >= kLow + spec_.ttl_us && time < newest_ - spec_.ttl_us;
  }

  int64_t Evict(const std::set<int64_t>& of_call, int64_t fresh) {
    std::vector<std::tuple<bool, int64_t, int64_t, int64_t>> others;
    for (const auto& [id, row] : rows_) {
      if (of_call.count(id) == 0)
        others.emplace_back(!Expired(row.time), Rarest() ? row.value : 0, row.time, id);
    }
    std::sort(others.begin(), others.end());
    const int64_t going =
        Going(Rows() + fresh - spec_.capacity, spec_.capacity, static_cast<int64_t>(others.size()));
    for (int64_t i = 0; i < going; ++i) {
      gone_.insert(std::get<3>(others[static_cast<size_t>(i)]));
      rows_.erase(std::get<3>(others[static_cast<size_t>(i)]));
    }
    evicted_ += going;
    return going;
  }

  void Age() {
    if (!Rarest()) return;
    ++halvings_;
    for (auto& [id, row] : rows_) row.value >>= 1;
  }

  void Learn(const Batch& batch, const std::vector<size_t>& fresh, const Entries& counters, bool aged) {
    if (aged) Age();
    for (size_t i = 0; i < batch.ids.size(); ++i) {
      const auto row = rows_.find(batch.ids[i]);
      if (row == rows_.end()) continue;
      row->second.time = std::max(row->second.time, batch.times[i]);
      row->second.value = std::min<int64_t>(255, row->second.value + std::min<int64_t>(255, batch.counts[i]));
    }
    for (const size_t i : fresh) {
      const auto counter = counters.find(batch.ids[i]);
      const int64_t seen = counter == counters.end() ? kLow : counter->second.time;
      rows_[batch.ids[i]] = {std::max(batch.times[i], seen), std::min<int64_t>(255, batch.counts[i])};
    }
  }

  // Leaves in `places` the `room` with most occurrences; returns the others.
  static std::vector<size_t> KeepMostFrequent(const Batch& batch, int64_t room, std::vector<size_t>* places) {
    std::sort(places->begin(), places->end(), [&](size_t x, size_t y) {
      return batch.counts[x] != batch.counts[y] ? batch.counts[x] > batch.counts[y]
                                                : batch.ids[x] < batch.ids[y];
    });
    const size_t stay = std::min(places->size(), static_cast<size_t>(room));
    const std::vector<size_t> others(places->begin() + static_cast<std::ptrdiff_t>(stay), places->end());
    places->resize(stay);
    return others;
  }

  void DropCounters(const Batch& batch, std::vector<size_t>* waiting) {
    std::set<int64_t> of_call;
    auto after = static_cast<int64_t>(pending_.size());
    for (const size_t i : *waiting) {
      after += pending_.count(batch.ids[i]) == 0;
      of_call.insert(batch.ids[i]);
    }
    std::vector<std::pair<int64_t, int64_t>> others;
    for (const auto& [id, counter] : pending_) {
      if (of_call.count(id) == 0) others.emplace_back(counter.time, id);
    }
    std::sort(others.begin(), others.end());
    const int64_t going =
        Going(after - spec_.pending_limit, spec_.pending_limit, static_cast<int64_t>(others.size()));
    for (int64_t i = 0; i < going; ++i) pending_.erase(others[static_cast<size_t>(i)].second);
    for (const size_t i : KeepMostFrequent(batch, spec_.pending_limit, waiting)) pending_.erase(batch.ids[i]);
  }

  TableSpec spec_;
  Entries rows_, pending_;
  std::set<int64_t> gone_;
  int64_t newest_ = kNever, evicted_ = 0, admitted_ = 0, filtered_ = 0, halvings_ = 0;
};

TableSpec Bounded(int64_t capacity, Victims victims, int64_t ttl, int64_t occurrences) {
  TableSpec spec = PlainSpec(1);
  spec.capacity = capacity;
  spec.pending_limit = std::max<int64_t>(capacity / 4, 5);
  spec.victims = victims;
  spec.ttl_us = ttl;
  if (occurrences > 1) spec.admission = AfterCount(occurrences);
  return spec;
}

void EqualsTheSpecification(const TableSpec& spec, int64_t range, int64_t most, int steps, uint64_t seed) {
  Table table(spec);
  Model model(spec);
  Dice dice(seed);
  for (int64_t step = 0; step < steps; ++step) {
    Batch batch = DrawBatch(dice, 1, range, dice.Between(1, most), 10 * step);
    if (dice.Below(10) == 0) batch.counts[0] = dice.Below(2) ? kHigh : 300;
    if (dice.Below(60) == 0) batch.times[0] = dice.Below(2) ? kLow : 10 * step + 5000;
    if (dice.Below(6) != 0) {
      CHECK(table.Update(batch.view(), 0.1f).ok());
      model.Update(batch);
    } else {
      const Code code = table.Assign(batch.ids, batch.grads, batch.times).code;
      CHECK(code == model.Assign(batch.ids, batch.times));
    }
    model.Compare(table);
  }
  CHECK(model.evicted() > 0);
}

// More rows than are sorted at once, so that ranges of times are counted and narrowed first.
void EqualsTheSpecificationWhenLarge(int kind) {
  constexpr int64_t kRows = 40'000;
  const TableSpec spec = Bounded(kRows, Victims::kOldest, kind == 3 ? 1000 : -1, 1);
  Table table(spec);
  Model model(spec);
  Dice dice(static_cast<uint64_t>(kind));
  for (int round = 0; round < 3; ++round) {
    Batch batch;
    const int64_t many = round == 0 ? kRows : 600 * round - 500;
    for (int64_t i = 0; i < many; ++i) {
      batch.ids.push_back(round * kRows + i);
      batch.counts.push_back(1);
      batch.grads.push_back(0.5f);
      const int64_t times[] = {7, static_cast<int64_t>(dice.Word()), i % 3 ? dice.Between(0, 5) : kHigh,
                               i / 20};
      batch.times.push_back(times[kind]);
    }
    CHECK(table.Update(batch.view(), 0.1f).ok());
    model.Update(batch);
    model.Compare(table);
  }
  CHECK(model.evicted() == 2 * (kRows / 64));
}

void TheRemovalsAreLimited() {
  TableSpec spec = Bounded(100, Victims::kOldest, -1, 1);
  spec.removal_limit = 40;
  Table table(spec);
  for (int64_t step = 0; step < 100; ++step) {
    Batch batch;
    for (int64_t i = 0; i < 7; ++i) {
      batch.ids.push_back(step * 7 + i);
      batch.counts.push_back(1);
      batch.times.push_back(step);
      batch.grads.push_back(0.5f);
    }
    CHECK(table.Update(batch.view(), 0.1f).ok());
    const Parts parts = PartsOf(table);
    CHECK(parts.removed_ids.size() <= 40);
    Changes changes;
    CHECK(table.ReadChanges(parts.numbers.floor, &changes).ok() && changes.removed == parts.removed_ids);
    if (parts.numbers.floor > 0)
      CHECK(table.ReadChanges(parts.numbers.floor - 1, &changes).code == Code::kStale);
  }
  CHECK(table.GetNumbers().floor > 50);
}

}  // namespace
}  // namespace headrace

int main() {
  using headrace::Bounded;
  using headrace::Victims;
  uint64_t seed = 0;
  for (const Victims victims : {Victims::kOldest, Victims::kRarest}) {
    for (const int64_t ttl : {int64_t{-1}, int64_t{0}, int64_t{200}, headrace::kHigh}) {
      for (const int64_t occurrences : {1, 4}) {
        headrace::EqualsTheSpecification(Bounded(90, victims, ttl, occurrences), 400, 60, 150, ++seed);
        headrace::EqualsTheSpecification(Bounded(20, victims, ttl, occurrences), 100, 60, 100, ++seed);
      }
    }
    headrace::EqualsTheSpecification(Bounded(1500, victims, 900, 2), 6000, 200, 150, ++seed);
  }
  for (const int kind : {0, 1, 2, 3}) headrace::EqualsTheSpecificationWhenLarge(kind);
  headrace::TheRemovalsAreLimited();
  return headrace::ReportChecks("table_room_test");
}
