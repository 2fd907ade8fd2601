// The row store against plain maps, for every layout of heads.
#include "table/row_store.h"

#include <map>
#include <set>
#include <vector>

#include "snapshot/samples.h"
#include "table/check.h"

namespace headrace {
namespace {

struct Record {
  int64_t time = 0;
  uint64_t mark = 0;
  uint8_t frequency = 0;
  uint8_t fill = 0;
};

// A store, and what should be in it.
class Model {
 public:
  Model(bool times, bool marks, bool frequencies, int64_t row_bytes)
      : store_(HeadLayout(times, marks, frequencies), row_bytes), dice_(static_cast<uint64_t>(row_bytes)) {}

  void Insert(int64_t many) {
    std::vector<int64_t> ids;
    while (static_cast<int64_t>(ids.size()) < many) {
      const auto id = static_cast<int64_t>(dice_.Word() >> dice_.Below(60));
      if (oracle_.count(id) == 0) ids.push_back(id), oracle_[id] = {};
    }
    store_.Reserve(ids);
    for (const int64_t id : ids) {
      const Cell cell = store_.Insert(id);
      CHECK((!store_.has_heads() || store_.IdOf(cell) == id) && store_.Time(cell) == 0 &&
            store_.Frequency(cell) == 0);
      Change(id, cell);
    }
  }

  void Change(int64_t id, Cell cell) {
    Record& record = oracle_[id];
    record.time = static_cast<int64_t>(dice_.Word());
    record.mark = ++mark_;
    record.frequency = static_cast<uint8_t>(dice_.Word());
    record.fill = static_cast<uint8_t>(dice_.Word());
    store_.SetTime(cell, record.time);
    store_.SetFrequency(cell, record.frequency);
    store_.Touch(cell, record.mark);
    std::memset(store_.Row(cell), record.fill, static_cast<size_t>(store_.row_bytes()));
  }

  void ChangeSome(int64_t many) {
    for (; many > 0 && !oracle_.empty(); --many) {
      const int64_t id = Any();
      Change(id, store_.Find(id));
    }
  }

  void EraseSome(int64_t many) {
    for (; many > 0 && !oracle_.empty(); --many) {
      const int64_t id = Any();
      store_.Erase(id, store_.Find(id));
      oracle_.erase(id);
    }
  }

  void Rebase(uint64_t base) {
    store_.Rebase(base);
    for (auto& [id, record] : oracle_) record.mark = std::max(record.mark, base);
  }

  bool Same(int64_t id, Cell cell) const {
    const Record& record = oracle_.at(id);
    bool same = !store_.has_heads() || store_.IdOf(cell) == id;
    same &= store_.Time(cell) == (store_.keeps_times() ? record.time : 0);
    same &= store_.Mark(cell) == (store_.keeps_marks() ? record.mark : 0);
    same &= store_.Frequency(cell) == (store_.keeps_frequencies() ? record.frequency : 0);
    for (int64_t at = 0; at < store_.row_bytes(); ++at)
      same &= store_.Row(cell)[at] == std::byte{record.fill};
    return same;
  }

  void CheckAll() const {
    CHECK(store_.size() == static_cast<int64_t>(oracle_.size()));
    std::vector<int64_t> ids;
    for (const auto& [id, record] : oracle_)
      ids.push_back(id), ids.push_back(~id);  // present, and mostly absent
    std::vector<Cell> cells(ids.size()), again(ids.size());
    std::vector<uint64_t> hashes(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) hashes[i] = IdMap::Hash(ids[i]);
    store_.FindAll(ids, cells.data());
    store_.FindAll(ids, hashes.data(), again.data(), 64);
    CHECK(cells == again);
    std::set<Cell> distinct;
    for (size_t i = 0; i < ids.size(); ++i) {
      CHECK(cells[i] == store_.Find(ids[i]) && (cells[i] != kNoCell) == (oracle_.count(ids[i]) != 0));
      if (cells[i] != kNoCell) CHECK(Same(ids[i], cells[i]));
      if (i % 2 == 0) distinct.insert(cells[i]);
    }
    CHECK(distinct.size() == oracle_.size());
    std::set<Cell> visited, by_stripe;
    store_.ForEach([&](Cell cell) { visited.insert(cell); });
    for (int stripe = 0; stripe < IdMap::kStripeCount; ++stripe) {
      store_.ForEachInStripe(stripe, [&](Cell cell, uint64_t hash) {
        by_stripe.insert(cell);
        std::byte head[32];
        store_.CopyHead(cell, hash, head);
        int64_t id;
        std::memcpy(&id, head, sizeof id);
        CHECK(store_.Find(id) == cell);
      });
    }
    CHECK(visited == distinct && by_stripe == distinct);
    const auto sorted = store_.Sorted();
    CHECK(sorted.size() == oracle_.size() && std::is_sorted(sorted.begin(), sorted.end()));
    for (const auto& [id, cell] : sorted) CHECK(store_.Find(id) == cell);
  }

  void CheckChanged() {
    if (!store_.keeps_marks()) return;
    const uint64_t since = store_.base() + dice_.Below(mark_ - store_.base() + 1);
    std::set<int64_t> wanted, got;
    for (const auto& [id, record] : oracle_) {
      if (record.mark > since) wanted.insert(id);
    }
    store_.ForEachChanged(since, [&](Cell cell) { CHECK(got.insert(store_.IdOf(cell)).second); });
    CHECK(wanted == got);
  }

  RowStore& store() { return store_; }
  uint64_t mark() const { return mark_; }

 private:
  int64_t Any() {
    const auto found = oracle_.lower_bound(static_cast<int64_t>(dice_.Word() >> dice_.Below(60)));
    return found == oracle_.end() ? oracle_.begin()->first : found->first;
  }

  RowStore store_;
  Dice dice_;
  std::map<int64_t, Record> oracle_;
  uint64_t mark_ = 0;
};

void HeadsHoldWhatIsChosen() {
  for (int kept = 0; kept < 8; ++kept) {
    const HeadLayout layout(kept & 1, kept & 2, kept & 4);
    CHECK(layout.bytes == 8 + 8 * (kept & 1) + 4 * ((kept >> 1) & 1) + ((kept >> 2) & 1));
    CHECK((layout.time_at >= 0) == ((kept & 1) != 0) && (layout.mark_at >= 0) == ((kept & 2) != 0));
    CHECK((layout.frequency_at >= 0) == ((kept & 4) != 0));
  }
}

void EveryLayoutAgreesWithAnOracle(int64_t row_bytes) {
  for (int kept = 0; kept < 8; ++kept) {
    Model model(kept & 1, kept & 2, kept & 4, row_bytes);
    model.CheckAll();
    for (int round = 0; round < 6; ++round) {
      model.Insert(round == 2 ? 3000 : 200);
      model.ChangeSome(50);
      model.CheckChanged();
      model.EraseSome(round == 3 ? 3000 : 150);
      model.CheckChanged();
      const uint64_t version = model.store().version();
      const int64_t bytes = model.store().bytes();
      model.store().Compact();
      CHECK(model.store().bytes() <= bytes);
      if (round == 3) CHECK(model.store().version() != version && model.store().bytes() < bytes / 2);
      model.CheckChanged();
      if ((kept & 2) && round % 2 == 1) model.Rebase(model.mark() - 100);
      model.CheckChanged();
      model.CheckAll();
    }
    model.EraseSome(1 << 20);
    model.store().Compact();
    model.CheckAll();
    CHECK(model.store().bytes() < 64 << 10);
  }
}

// What did not change for long is not visited: blocks of 64 cells, and of 64 blocks, have marks of their own.
void UnchangedBlocksAreSkipped() {
  Model model(true, true, false, 8);
  model.Insert(20'000);
  const uint64_t before = model.mark();
  model.ChangeSome(3);
  int64_t visited = 0;
  model.store().ForEachChanged(before, [&](Cell) { ++visited; });
  CHECK(visited >= 1 && visited <= 3);
  model.CheckChanged();
}

void FreeCellsAreHandedOutFirst() {
  Model model(true, true, true, 16);
  model.Insert(1000);
  model.EraseSome(300);
  const int64_t bytes = model.store().bytes();
  const size_t words = model.store().live().size();
  model.Insert(300);
  CHECK(model.store().live().size() == words && model.store().bytes() <= bytes + bytes / 20);
  model.CheckAll();
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::HeadsHoldWhatIsChosen();
  for (const int64_t row_bytes : {0, 6, 8, 128}) headrace::EveryLayoutAgreesWithAnOracle(row_bytes);
  headrace::UnchangedBlocksAreSkipped();
  headrace::FreeCellsAreHandedOutFirst();
  return headrace::ReportChecks("row_store_test");
}
