// Every allocation of every call fails once: the call says kNoMemory and has changed nothing, or did not need
// it.
#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "table/check.h"
#include "table/packed.h"
#include "table/packed_step.h"
#include "table/steps.h"

// Not inlined, or the compiler takes them for a pair that does not belong together.
#if defined(__GNUC__)
#define HEADRACE_APART __attribute__((noinline))
#else
#define HEADRACE_APART
#endif

namespace {

std::atomic<int64_t> allowed{-1};  // allocations until one fails; below 0: none does

void* Allocate(size_t bytes, size_t alignment) {
  if (allowed.load() >= 0 && allowed.fetch_sub(1) == 0) throw std::bad_alloc();
  const size_t whole = (bytes + alignment - 1) / alignment * alignment;
  if (void* memory = std::aligned_alloc(alignment, whole > 0 ? whole : alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

HEADRACE_APART void* operator new(size_t bytes) {
  return Allocate(bytes, 16);
}
HEADRACE_APART void* operator new(size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
HEADRACE_APART void operator delete(void* memory) noexcept {
  std::free(memory);
}
HEADRACE_APART void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
HEADRACE_APART void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
HEADRACE_APART void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace headrace {
namespace {

constexpr int64_t kDim = 4;

std::vector<TableSpec> Specs() {
  TableSpec plain = AdagradSpec(kDim);
  TableSpec bounded = plain;
  bounded.capacity = 120;
  bounded.pending_limit = 40;
  bounded.removal_limit = 50;
  bounded.admission = AfterCount(2);
  bounded.precision = Precision::kBfloat16;
  return {plain, bounded};
}

// Runs call(table), with one allocation after the other failing, until none is left that could.
void FailsWhole(const TableSpec& spec, const std::function<Status(Table&)>& call) {
  Table wanted(spec);
  Dice dice(1);
  for (int64_t step = 0; step < 12; ++step) {
    CHECK(wanted.Update(DrawBatch(dice, kDim, 300, 80, step).view(), 0.1f).ok());
  }
  CHECK(wanted.Remove(DrawIds(dice, 300, 60)).ok());
  const Parts before = PartsOf(wanted);
  CHECK(call(wanted).ok());
  const Parts after = PartsOf(wanted);
  int failures = 0;
  for (int64_t count = 0;; ++count) {
    Table table(spec);
    CHECK(table.Import(before).ok());
    CHECK(count < 10'000);
    allowed.store(count);
    const Status status = call(table);
    const bool failed = allowed.exchange(-1) < 0;
    CHECK(status.ok() || (failed && status.code == Code::kNoMemory));
    Parts now = PartsOf(table);
    if (!status.ok()) {
      ++failures;
      CheckSameParts(before, now);
      CHECK(call(table).ok());
      now = PartsOf(table);
    }
    CHECK(now.ids == after.ids && SameFloats(now.rows, after.rows) && now.pending_ids == after.pending_ids);
    CHECK(now.numbers.mark == after.numbers.mark);
    if (!failed) break;
  }
  CHECK(failures > 0);
}

void CallsFailWhole(const TableSpec& spec) {
  Dice dice(2);
  const Batch step = DrawBatch(dice, kDim, 900, 100, 50);
  FailsWhole(spec, [&](Table& table) { return table.Update(step.view(), 0.1f); });
  FailsWhole(spec, [&](Table& table) { return table.Assign(step.ids, step.grads, step.times); });
  FailsWhole(spec, [&](Table& table) {
    const Status status = table.Remove(step.ids);
    return Status{status.code, 0};
  });
  FailsWhole(spec, [&](Table& table) {
    const Status status = table.Evict(6);
    return Status{status.code, 0};
  });
  FailsWhole(spec, [&](Table& table) { return table.Clear(); });
  Table other(spec);
  CHECK(other.Update(step.view(), 0.1f).ok());
  const Parts parts = PartsOf(other);
  FailsWhole(spec, [&](Table& table) { return table.Import(parts); });
}

void ReadsFailWhole(const TableSpec& spec) {
  FailsWhole(spec, [](Table& table) {
    Changes changes;
    return table.ReadChanges(table.GetNumbers().floor, &changes);
  });
  FailsWhole(spec, [](Table& table) {
    Parts parts;
    return table.Export(&parts);
  });
  FailsWhole(spec, [](Table& table) {
    std::unique_ptr<Capture> capture;
    return table.Begin(-1, &capture);
  });
}

// The batch and the objects are there before memory fails; the pass itself is what may fail.
void APackedStepFailsWhole(const TableSpec& spec, int threads) {
  Dice dice(3);
  std::vector<int64_t> ids, offsets{0}, times;
  for (int64_t i = 0; i < 200; ++i) {
    ids.push_back(dice.Between(0, 900) * 0x51ED27);
    offsets.push_back(i + 1);
    times.push_back(60);
  }
  std::vector<float> out(200 * kDim);
  const std::vector<float> grads(200 * kDim, 0.25f), rates{0.1f};
  const FeatureIds input{ids.data(), 200, offsets.data(), out.data()};
  const std::vector<const float*> pointers{grads.data()};
  FailsWhole(spec, [&](Table& table) {
    const int64_t left = allowed.exchange(-1);
    Packed packed({&table}, {{0, Pooling::kSum}});
    std::unique_ptr<PackedStep> step;
    allowed.store(left);
    int32_t failed = -1;
    Status status = packed.Forward(std::span(&input, 1), times, threads, &step);
    if (status.ok()) status = step->Accumulate(pointers, threads);
    if (status.ok()) status = step->Apply(rates, threads, &failed);
    return status;
  });
}

}  // namespace
}  // namespace headrace

int main() {
  for (const headrace::TableSpec& spec : headrace::Specs()) {
    headrace::CallsFailWhole(spec);
    headrace::ReadsFailWhole(spec);
    headrace::APackedStepFailsWhole(spec, 1);
    headrace::APackedStepFailsWhole(spec, 2);
  }
  return headrace::ReportChecks("table_memory_test");
}
