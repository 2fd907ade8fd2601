// Everything at once; meant for the thread sanitizer as much as for its own checks.
#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>
#include <vector>

#include "table/check.h"
#include "table/packed.h"
#include "table/packed_step.h"
#include "table/steps.h"

namespace headrace {
namespace {

constexpr int64_t kIds = 200;

// Every write puts one value everywhere; a lookup that sees two values has seen half a write.
void ReadersSeeEachWriteWhole() {
  TableSpec spec = PlainSpec(4);
  spec.serving = true;
  Table table(spec);
  std::vector<int64_t> ids(kIds);
  for (int64_t i = 0; i < kIds; ++i) ids[static_cast<size_t>(i)] = i * 77;
  CHECK(table.Assign(ids, std::vector<float>(kIds * 4, 0.0f), {}).ok());
  std::atomic<bool> stop{false};
  std::atomic<int> reads{0};
  const auto read = [&] {
    std::vector<float> rows(kIds * 4);
    while (!stop) {
      CHECK(table.Lookup(ids, rows).ok());
      CHECK(std::count(rows.begin(), rows.end(), rows[0]) == kIds * 4);
      ++reads;
    }
  };
  std::thread first(read), second(read);
  for (int generation = 1; generation < 100 || reads < 50; ++generation) {
    CHECK(table.Assign(ids, std::vector<float>(kIds * 4, static_cast<float>(generation)), {}).ok());
  }
  stop = true;
  first.join();
  second.join();
}

// Writers own ids of their own and know what those must be; the others read, capture and evict what nobody
// owns.
void NothingIsLost() {
  TableSpec spec = PlainSpec(3);
  spec.admission = AfterCount(2);
  spec.capture_limit = 256 << 10;
  Table table(spec);
  std::atomic<bool> stop{false};
  constexpr int64_t kSteps = 300, kWriters = 2;
  const auto write = [&](int64_t writer) {
    for (int64_t step = 0; step < kSteps; ++step) {
      std::vector<int64_t> ids;
      for (int64_t i = 0; i < 60; ++i) ids.push_back((step % 10 * 30 + i) * kWriters + writer);
      for (int64_t i = 0; i < 20; ++i)
        ids.push_back(-1 - (step * 20 + i) * kWriters - writer);  // old, for evict
      const std::vector<float> grads(ids.size() * 3, 0.5f);
      const std::vector<int64_t> twos(ids.size(), 1 + step % 2);
      std::vector<int64_t> times(ids.size(), 1000);
      std::fill(times.end() - 20, times.end(), 1);
      CHECK(table.Update({ids, grads, twos, times}, 1.0f).ok());
    }
  };
  const auto read = [&] {
    std::vector<int64_t> ids(500);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i);
    std::vector<float> rows(ids.size() * 3);
    std::vector<uint8_t> present(ids.size());
    while (!stop) {
      Changes changes, all;
      CHECK(table.Lookup(ids, rows).ok() && table.Contains(ids, present).ok());
      for (size_t at = 0; at < rows.size(); at += 3)
        CHECK(rows[at] == rows[at + 1] && rows[at] == rows[at + 2]);
      CHECK(table.ReadChanges(0, &changes).ok() && table.ReadRows(&all).ok());
      CHECK(table.GetStats().bytes > 0 && PartsOf(table).ids.size() <= 600 + 20 * kSteps * kWriters);
    }
  };
  const auto capture = [&] {
    while (!stop) {
      std::unique_ptr<Capture> one;
      CHECK(table.Begin(-1, &one).ok());
      Block block;
      for (bool done = false; !done;) CHECK(one->Next(&block, &done).ok());
      Numbers numbers;
      CHECK(one->Close(&numbers).ok());
    }
  };
  const auto evict = [&] {
    while (!stop) {
      CHECK(table.Evict(500).ok());
      std::this_thread::yield();
    }
  };
  std::vector<std::thread> others;
  others.emplace_back(read);
  others.emplace_back(capture);
  others.emplace_back(evict);
  std::thread first(write, 0), second(write, 1);
  first.join();
  second.join();
  stop = true;
  for (std::thread& other : others) other.join();
  CHECK(table.Evict(500).ok());
  const Parts parts = PartsOf(table);
  CHECK(parts.numbers.admitted - parts.numbers.evicted == static_cast<int64_t>(parts.ids.size()));
  CHECK(parts.pending_ids.empty() && parts.ids.size() == 660);
  // An id of place k is in step k / 30 and, but for the first, the one before, of every ten; the first
  // occurrence of each alone teaches nothing, and steps of odd number admit at once.
  std::vector<float> wanted(660, 0.0f);
  for (int64_t step = 0; step < kSteps; ++step) {
    for (int64_t i = 0; i < 60; ++i) {
      for (int64_t writer = 0; writer < kWriters; ++writer) {
        const auto id = static_cast<size_t>((step % 10 * 30 + i) * kWriters + writer);
        const bool first_time = wanted[id] == 0.0f && step % 2 == 0;
        wanted[id] += first_time ? 1000.0f : 0.5f;
      }
    }
  }
  for (size_t i = 0; i < parts.ids.size(); ++i) {
    const auto id = static_cast<size_t>(parts.ids[i]);
    CHECK(parts.rows[3 * i] == -(wanted[id] >= 1000.0f ? wanted[id] - 1000.0f : wanted[id]));
  }
}

// A bounded table under packed steps of several threads, with readers, captures and evictions.
void PackedStepsBesideEverything() {
  TableSpec bounded = AdagradSpec(8);
  bounded.capacity = 2000;
  bounded.pending_limit = 500;
  bounded.admission = AfterSketch(2);
  Table one(bounded), two(AdagradSpec(16));
  Packed packed({&one, &two}, {{0, Pooling::kSum}, {1, Pooling::kMean}, {0, Pooling::kNone}});
  constexpr int64_t kBags = 2500;
  std::vector<int64_t> offsets(kBags + 1), times(kBags, 5);
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<int64_t>(i);
  std::atomic<bool> stop{false};
  const auto inputs = [&](Dice& dice, std::vector<int64_t>* ids, std::vector<float>* out) {
    ids->clear();
    for (int64_t i = 0; i < 3 * kBags; ++i) ids->push_back(dice.Between(0, dice.Between(1, 5000)));
    out->resize(static_cast<size_t>(kBags * 32));
    return std::vector<FeatureIds>{
        {ids->data(), kBags, offsets.data(), out->data()},
        {ids->data() + kBags, kBags, offsets.data(), out->data() + kBags * 8},
        {ids->data() + 2 * kBags, kBags, offsets.data(), out->data() + kBags * 24}};
  };
  const auto learn = [&](uint64_t seed) {
    Dice dice(seed);
    std::vector<int64_t> ids;
    std::vector<float> out;
    const std::vector<float> grads(static_cast<size_t>(kBags * 16), 0.01f), rates{0.1f, 0.1f};
    for (int step = 0; step < 8; ++step) {
      std::unique_ptr<PackedStep> pass;
      CHECK(packed.Forward(inputs(dice, &ids, &out), times, 2, &pass).ok());
      CHECK(pass->Accumulate(std::vector<const float*>{grads.data(), grads.data(), grads.data()}, 2).ok());
      int32_t failed = -1;
      CHECK(pass->Apply(rates, 2, &failed).ok());
      packed.GiveBack(std::move(pass));
    }
  };
  const auto read = [&] {
    Dice dice(99);
    std::vector<int64_t> ids;
    std::vector<float> out;
    while (!stop) {
      CHECK(packed.Read(inputs(dice, &ids, &out), kBags, 2).ok());
      CHECK(std::all_of(out.begin(), out.end(), [](float value) { return std::isfinite(value); }));
      CHECK(one.GetStats().rows <= 2000);
    }
  };
  const auto capture = [&] {
    while (!stop) {
      for (Table* table : {&one, &two}) {
        std::unique_ptr<Capture> taken;
        CHECK(table->Begin(-1, &taken).ok());
        Block block;
        for (bool done = false; !done;) CHECK(taken->Next(&block, &done).ok());
        if (stop) return;  // and it is given up
        CHECK(table->Evict(0).ok());
      }
    }
  };
  std::vector<std::thread> others;
  others.emplace_back(read);
  others.emplace_back(capture);
  std::thread first(learn, 1), second(learn, 2);
  first.join();
  second.join();
  stop = true;
  for (std::thread& other : others) other.join();
  CHECK(one.GetNumbers().halvings > 0 && one.GetStats().rows <= 2000 && two.GetStats().rows > 2000);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::ReadersSeeEachWriteWhole();
  headrace::NothingIsLost();
  headrace::PackedStepsBesideEverything();
  return headrace::ReportChecks("table_threads_test");
}
