// A table with a cold tier is, in every bit that can be read, the table without.
#include <memory>
#include <vector>

#include "snapshot/test_folder.h"
#include "table/capture.h"
#include "table/check.h"
#include "table/steps.h"

namespace headrace {
namespace {

constexpr int64_t kDim = 5;

std::vector<TableSpec> Specs() {
  TableSpec plain = AdagradSpec(kDim);
  TableSpec bare = PlainSpec(kDim);
  bare.times = bare.history = false;
  TableSpec full = AdagradSpec(kDim);
  full.capacity = 150;
  full.pending_limit = 60;
  full.ttl_us = 150;
  full.admission = AfterCount(2);
  TableSpec half = AdagradSpec(kDim);
  half.precision = Precision::kBfloat16;
  half.admission = AfterSketch(2);
  half.capacity = 200;
  half.victims = Victims::kOldest;
  return {plain, bare, full, half};
}

// The same write for both tables.
void Write(Dice& dice, int64_t now, bool captured, const std::vector<Table*>& tables) {
  const uint64_t kind = dice.Below(captured ? 23 : 24);  // clearing waits for a capture
  const Batch batch = DrawBatch(dice, kDim, 500, dice.Between(1, 90), now);
  for (Table* table : tables) {
    Status status;
    if (kind < 17) {
      status = table->Update(batch.view(), 0.1f);
    } else if (kind < 19) {
      status = table->Assign(batch.ids, batch.grads, batch.times);
    } else if (kind < 21 || !table->spec().times) {
      status = table->Remove(batch.ids);
    } else if (kind < 23) {
      status = table->Evict(now - 120);
    } else {
      status = table->Clear();
    }
    CHECK(status.ok());
  }
}

Parts Reloaded(const TableSpec& spec, Capture* capture) {
  Sample sample{capture->layout(), {}, {}};
  Block block;
  for (bool done = false;;) {
    CHECK(capture->Next(&block, &done).ok());
    if (done) break;
    sample.blocks.push_back(block);
  }
  CHECK(capture->Close(&sample.numbers).ok());
  Table table(spec);
  SampleSource source(sample);
  CHECK(table.Load(&source, sample.numbers).ok());
  CHECK(!spec.tier.used() || table.GetTier().hot_rows <= std::max<int64_t>(spec.tier.hot_rows, 0));
  return PartsOf(table);
}

void EqualsTheTableWithout(TableSpec spec, int64_t hot_rows, uint64_t seed) {
  const TestFolder folder;
  Table plain(spec);
  TableSpec tiered_spec = spec;
  tiered_spec.tier = {folder.At(""), int64_t{1} << 40, hot_rows};
  Table tiered(tiered_spec);
  Dice dice(seed);
  std::unique_ptr<Capture> capture;
  Parts then;
  for (int step = 0; step < 160; ++step) {
    Write(dice, 10 * step, capture != nullptr, {&plain, &tiered});
    if (step % 16 == 3) {
      CHECK(tiered.Begin(-1, &capture).ok());
      then = PartsOf(plain);
    }
    if (step % 16 == 9) {  // it was written to while it was captured
      CheckSameParts(then, Reloaded(tiered_spec, capture.get()));
      capture.reset();
    }
    if (step % 16 == 12) {
      const std::vector<int64_t> ids = DrawIds(dice, 500, 60);
      CHECK(tiered.Warm(ids, std::vector<int64_t>(ids.size(), 3)).ok());
    }
    if (step % 40 == 39) CHECK(tiered.ReleasePages().ok());
    if (step == 111) {
      const Parts parts = PartsOf(tiered);
      CHECK(tiered.Import(parts).ok() && plain.Import(parts).ok());
    }
    CheckSameParts(PartsOf(plain), PartsOf(tiered));
    const TierStats stats = tiered.GetTier();
    CHECK(stats.hot_rows <= hot_rows && stats.hot_rows + stats.cold_rows == tiered.GetStats().rows);
    if (capture) continue;
    Changes one, other;
    const uint64_t since = plain.GetNumbers().mark - 1;
    CHECK(plain.ReadChanges(since, &one).code == tiered.ReadChanges(since, &other).code);
    CHECK(one.ids == other.ids && SameFloats(one.rows, other.rows) && one.removed == other.removed);
  }
  const TierStats stats = tiered.GetTier();
  CHECK(stats.misses > 0 && (hot_rows == 0 || (stats.hits > 0 && stats.promoted > 0)));
}

Batch Sequence(int64_t first, int64_t count) {
  Batch batch;
  for (int64_t id = first; id < first + count; ++id) {
    batch.ids.push_back(id);
    batch.counts.push_back(1);
    batch.times.push_back(0);
    for (int64_t j = 0; j < 16; ++j) batch.grads.push_back(static_cast<float>(id % 7) - 3.0f);
  }
  return batch;
}

// Memory stays within the budget while the table grows far beyond it, until ids alone take it all.
void MemoryIsBounded() {
  const TestFolder folder;
  TableSpec spec = AdagradSpec(16);
  spec.tier = {folder.At(""), 600'000, -1};
  Table table(spec);
  Status status;
  int64_t rows = 0;
  for (; rows < 200'000 && status.ok(); rows += 500) {
    status = table.Update(Sequence(rows, 500).view(), 0.1f);
    CHECK(!status.ok() || table.GetTier().memory_bytes <= 600'000);
    if (rows == 2000) CHECK(table.GetTier().cold_rows == 0 && table.GetTier().disk_bytes == 0);
    if (rows == 15'000) CHECK(table.GetTier().hot_rows > 500 && table.GetTier().cold_rows > 10'000);
  }
  CHECK(status.code == Code::kTierFull && status.detail == 600'000);
  CHECK(rows > 25'000 && table.GetStats().rows == rows - 500);
  CHECK(table.GetNumbers().mark == static_cast<uint64_t>(rows / 500 - 1));
  CHECK(table.Update(Sequence(0, 500).view(), 0.1f).ok());  // known ids need no more room
  std::vector<int64_t> most;
  for (int64_t id = 1000; id < rows - 500; ++id) most.push_back(id);
  CHECK(table.Remove(most).ok());
  CHECK(table.Forget(table.GetNumbers().mark).ok());  // the history of removals takes memory too
  CHECK(table.Update(Sequence(0, 500).view(), 0.1f).ok());
  CHECK(table.GetTier().cold_rows == 0);  // what is left came back
}

void ADiskThatFailsIsAnErrorAndChangesNothing() {
  TableSpec spec = AdagradSpec(16);
  spec.tier = {"/nowhere/at/all", 100'000, -1};
  Table table(spec);
  Status status;
  int64_t rows = 0;
  for (; rows < 4000 && status.ok(); rows += 100) status = table.Update(Sequence(rows, 100).view(), 0.1f);
  CHECK(status.code == Code::kIo);
  CHECK(table.GetStats().rows == rows - 100);
}

// Rows that come all the time end up in memory; Warm brings them there at once.
void HotRowsAreFound() {
  const TestFolder folder;
  TableSpec spec = AdagradSpec(16);
  spec.tier = {folder.At(""), -1, 256};
  Table table(spec);
  CHECK(table.Update(Sequence(0, 5000).view(), 0.1f).ok());
  for (int step = 0; step < 40; ++step) {
    CHECK(table.Update(Sequence(4000, 200).view(), 0.1f).ok());
    CHECK(table.Update(Sequence(100 * (step % 40), 100).view(), 0.1f).ok());
  }
  TierStats before = table.GetTier();
  CHECK(table.Update(Sequence(4000, 200).view(), 0.1f).ok());
  CHECK(table.GetTier().hits - before.hits >= 190);
  const std::vector<int64_t> ids = Sequence(300, 200).ids;
  const Status warmed = table.Warm(ids, std::vector<int64_t>(200, 50));
  CHECK(warmed.ok() && warmed.detail > 100);
  before = table.GetTier();
  CHECK(table.Update(Sequence(300, 200).view(), 0.1f).ok());
  CHECK(table.GetTier().hits - before.hits == 200);
  CHECK(table.Warm(std::vector<int64_t>{1, 1}, std::vector<int64_t>{1, 1}).code == Code::kDuplicateId);
  CHECK(table.Warm(std::vector<int64_t>{1}, std::vector<int64_t>{0}).code == Code::kBadCount);
}

}  // namespace
}  // namespace headrace

int main() {
  uint64_t seed = 0;
  for (const headrace::TableSpec& spec : headrace::Specs()) {
    for (const int64_t hot_rows : {0, 3, 40}) headrace::EqualsTheTableWithout(spec, hot_rows, ++seed);
  }
  headrace::MemoryIsBounded();
  headrace::ADiskThatFailsIsAnErrorAndChangesNothing();
  headrace::HotRowsAreFound();
  return headrace::ReportChecks("tiered_table_test");
}
