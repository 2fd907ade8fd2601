// What a capture reads is the table at the mark it began at, whatever is written meanwhile.
#include "table/capture.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "snapshot/merge.h"
#include "table/check.h"
#include "table/steps.h"

namespace headrace {
namespace {

constexpr int64_t kDim = 3;

// Writes to a table at random; what write number n does depends on n and the seed alone.
class Writer {
 public:
  Writer(Table* table, uint64_t seed) : table_(table), seed_(seed) {}

  void Write() {
    Dice dice(seed_ * 1'000'003 + number_);
    const auto time = static_cast<int64_t>(10 * number_++);
    const uint64_t kind = dice.Below(20);
    Status status;
    if (kind < 15) {
      const Batch batch = DrawBatch(dice, kDim, 600, dice.Between(1, 60), time);
      status = table_->Update(batch.view(), 0.1f);
    } else if (kind < 17) {
      const Batch batch = DrawBatch(dice, kDim, 600, dice.Between(1, 40), time);
      status = table_->Assign(batch.ids, batch.grads, batch.times);
    } else if (kind < 19 || !table_->spec().times) {
      status = table_->Remove(DrawIds(dice, 600, 30));
    } else {
      status = table_->Evict(time - 200);
    }
    CHECK(status.ok());
  }

  void Write(int times) {
    for (; times > 0; --times) Write();
  }

 private:
  Table* table_;
  uint64_t seed_;
  uint64_t number_ = 0;
};

// Reads all of a capture; calls between() before each stripe.
template <typename Between>
Sample ReadAll(Capture* capture, Between between) {
  Sample sample{capture->layout(), {}, {}};
  Block block;
  for (bool done = false;;) {
    between();
    CHECK(capture->Next(&block, &done).ok());
    if (done) break;
    CHECK(block.stripe == static_cast<int32_t>(sample.blocks.size()));
    MarkRange rows, removed;
    CHECK(IsSound(sample.layout, block, &rows, &removed));
    sample.blocks.push_back(block);
  }
  CHECK(capture->Close(&sample.numbers).ok() && sample.numbers.mark == capture->mark());
  return sample;
}

// The table that a full sample is of.
Parts Loaded(const TableSpec& spec, const Sample& sample) {
  Table table(spec);
  SampleSource source(sample);
  CHECK(table.Load(&source, sample.numbers).ok());
  return PartsOf(table);
}

// A full sample and an increment that continues it.
Sample Folded(const Sample& older, const Sample& increment) {
  Sample sample{older.layout, increment.numbers, std::vector<Block>(older.blocks.size())};
  const int64_t halvings = increment.numbers.halvings - older.numbers.halvings;
  for (size_t i = 0; i < older.blocks.size() && i < increment.blocks.size(); ++i) {
    CHECK(Fold(older.layout, older.blocks[i], increment.blocks[i], false, halvings, increment.numbers.floor,
               &sample.blocks[i]));
  }
  return sample;
}

std::vector<TableSpec> Specs() {
  TableSpec plain = AdagradSpec(kDim);
  TableSpec lfu = plain;
  lfu.capacity = 200;
  lfu.pending_limit = 60;
  lfu.admission = AfterCount(3);
  TableSpec lru = plain;
  lru.capacity = 150;
  lru.pending_limit = 60;
  lru.victims = Victims::kOldest;
  lru.precision = Precision::kBfloat16;
  lru.admission = AfterSketch(3);
  TableSpec expiring = plain;
  expiring.capacity = 170;
  expiring.pending_limit = 60;
  expiring.ttl_us = 300;
  expiring.precision = Precision::kFloat16;
  expiring.removal_limit = 300;
  TableSpec bare = PlainSpec(kDim);
  bare.times = bare.history = false;
  TableSpec timed = plain;
  timed.history = false;
  timed.admission = AfterCount(2);
  return {plain, lfu, lru, expiring, bare, timed};
}

// Captures one after the other, each continuing the last where the table allows it, with writes before every
// stripe.
void EqualsTheTableAtItsMark(const TableSpec& spec, uint64_t seed) {
  Table table(spec);
  Writer writer(&table, seed);
  writer.Write(60);
  Dice dice(seed);
  Sample last;
  uint64_t forgotten = 0;
  int increments = 0;
  for (int round = 0; round < 8; ++round) {
    std::unique_ptr<Capture> capture;
    int64_t since = round % 5 == 0 ? -1 : static_cast<int64_t>(last.numbers.mark);
    const Parts wanted = PartsOf(table);
    Status status = table.Begin(since, &capture);
    if (since >= 0 && !spec.history) CHECK(status.code == Code::kNoHistory);
    if (!status.ok()) {
      CHECK(since >= 0 && (status.code == Code::kNoHistory || spec.removal_limit >= 0));
      since = -1;
      CHECK(table.Begin(since, &capture).ok());
    }
    std::unique_ptr<Capture> other;
    CHECK(table.Begin(-1, &other).code == Code::kBusy);
    const Sample sample = ReadAll(capture.get(), [&] {
      if (dice.Below(8) == 0) writer.Write(static_cast<int>(dice.Between(1, 3)));
      if (dice.Below(64) == 0) CHECK(table.Forget(forgotten).ok());
    });
    last = since >= 0 ? Folded(last, sample) : sample;
    increments += since >= 0;
    CheckSameParts(wanted, Loaded(spec, last));
    forgotten = last.numbers.mark;  // what the next increment does not need
    writer.Write(static_cast<int>(dice.Between(0, 40)));
  }
  if (spec.history && spec.removal_limit < 0) CHECK(increments == 6);
}

void AnEmptyTableHasACapture() {
  const TableSpec spec = AdagradSpec(kDim);
  Table table(spec);
  std::unique_ptr<Capture> capture;
  CHECK(table.Begin(0, &capture).ok());
  Writer writer(&table, 1);
  const Sample sample = ReadAll(capture.get(), [&] { writer.Write(); });
  for (const Block& block : sample.blocks) CHECK(block.ids.empty() && block.removed_ids.empty());
  CHECK(sample.numbers.mark == 0);
}

// Cells are used again while a capture reads: what was in them is read, and what is in them now is not.
void CellsUsedAgainAreReadAsTheyWere() {
  const TableSpec spec = AdagradSpec(kDim);
  Table table(spec);
  Dice dice(5);
  std::vector<int64_t> low, high;
  for (int64_t id = 0; id < 500; ++id) {
    low.push_back(id);
    high.push_back(-1 - id);
  }
  const std::vector<float> rows(500 * kDim, 0.5f);
  const std::vector<int64_t> times(500, 5);
  CHECK(table.Assign(low, rows, times).ok());
  const Parts wanted = PartsOf(table);
  std::unique_ptr<Capture> capture;
  CHECK(table.Begin(-1, &capture).ok());
  int stripes = 0;
  const Sample sample = ReadAll(capture.get(), [&] {
    if (stripes++ != 100) return;
    CHECK(table.Remove(low).ok() && table.Assign(high, rows, times).ok() &&
          table.Assign(low, rows, times).ok());
  });
  CheckSameParts(wanted, Loaded(spec, sample));
  CHECK(table.GetStats().rows == 1000);
}

void ACaptureMayBeGivenUp() {
  Table table(AdagradSpec(kDim));
  Writer writer(&table, 2);
  writer.Write(20);
  for (int round = 0; round < 3; ++round) {
    std::unique_ptr<Capture> capture;
    CHECK(table.Begin(-1, &capture).ok());
    Block block;
    bool done = false;
    for (int stripe = 0; stripe < 40 * round; ++stripe) CHECK(capture->Next(&block, &done).ok() && !done);
    writer.Write(5);
    capture.reset();
    writer.Write(5);
    CHECK(table.Clear().ok());  // waits for no capture
    writer.Write(5);
  }
}

// The table after its first `writes` writes.
Parts Replayed(const TableSpec& spec, uint64_t seed, uint64_t writes) {
  Table table(spec);
  Writer(&table, seed).Write(static_cast<int>(writes));
  return PartsOf(table);
}

void EqualsTheTableWhileAThreadWrites(TableSpec spec, int64_t limit, uint64_t seed) {
  spec.capture_limit = limit;
  Table table(spec);
  Writer writer(&table, seed);
  Sample last;
  int64_t most = 0;
  for (int round = 0; round < 5; ++round) {
    std::thread thread([&] { writer.Write(100); });
    while (table.GetNumbers().mark < static_cast<uint64_t>(100 * round + 20)) std::this_thread::yield();
    std::unique_ptr<Capture> capture;
    bool whole = round % 3 == 0 || !spec.history;
    Status status = table.Begin(whole ? -1 : static_cast<int64_t>(last.numbers.mark), &capture);
    if (!whole && status.code == Code::kStale && spec.removal_limit >= 0) {
      whole = true;
      status = table.Begin(-1, &capture);
    }
    CHECK(status.ok());
    int stripes = 0;
    const Sample sample = ReadAll(capture.get(), [&] {
      if (++stripes % 32 == 0) std::this_thread::yield();
      most = std::max(most, capture->bytes());
    });
    thread.join();
    last = whole ? sample : Folded(last, sample);
    CheckSameParts(Replayed(spec, seed, last.numbers.mark), Loaded(spec, last));
  }
  if (limit >= 0) CHECK(most <= limit);
}

// A writer that a capture has no memory left for waits until the capture has got further, or ends.
void WritersWaitForALimitedCapture(bool finish) {
  TableSpec spec = AdagradSpec(kDim);
  spec.capture_limit = 16 << 10;
  Table table(spec);
  constexpr uint64_t kWrites = 120;
  Writer(&table, 9).Write(40);
  std::unique_ptr<Capture> capture;
  CHECK(table.Begin(-1, &capture).ok());
  std::thread thread([&] { Writer(&table, 10).Write(kWrites); });
  uint64_t mark = 0;
  for (int quiet = 0; quiet < 5; ++quiet) {  // until it stands still
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const uint64_t now = table.GetNumbers().mark;
    if (now != mark) quiet = 0;
    mark = now;
  }
  CHECK(mark < 40 + kWrites);
  CHECK(capture->bytes() <= spec.capture_limit);
  if (finish) {
    const Sample sample = ReadAll(capture.get(), [&] { CHECK(capture->bytes() <= spec.capture_limit); });
    CheckSameParts(Replayed(spec, 9, 40), Loaded(spec, sample));
  } else {
    capture.reset();
  }
  thread.join();
  CHECK(table.GetNumbers().mark == 40 + kWrites);
}

}  // namespace
}  // namespace headrace

int main() {
  uint64_t seed = 0;
  for (const headrace::TableSpec& spec : headrace::Specs()) {
    headrace::EqualsTheTableAtItsMark(spec, ++seed);
    headrace::EqualsTheTableWhileAThreadWrites(spec, seed % 4 == 1 ? -1 : 32 << 10, seed);
    ++seed;
  }
  headrace::AnEmptyTableHasACapture();
  headrace::CellsUsedAgainAreReadAsTheyWere();
  headrace::ACaptureMayBeGivenUp();
  headrace::WritersWaitForALimitedCapture(true);
  headrace::WritersWaitForALimitedCapture(false);
  return headrace::ReportChecks("capture_test");
}
