// Tests of the sketch: the bytes of the Python specification, never too low before ageing, ageing, and
// threads that own different stripes.
#include "table/sketch.h"

#include <thread>
#include <unordered_map>
#include <vector>

#include "table/check.h"

namespace headrace {
namespace {

// A walk over few ids, so that counters are shared, saturate and age; the same is walked in Python.
struct Walk {
  int64_t id, count;
};

std::vector<Walk> Steps(uint64_t n) {
  std::vector<Walk> steps;
  for (uint64_t i = 0; i < n; ++i) {
    const uint64_t word = Mix64(i);
    steps.push_back({static_cast<int64_t>(Mix64(word % 3000)), static_cast<int64_t>(word >> 32) % 7 + 1});
    if (i % 97 == 0) steps.back().count = INT64_MAX;
  }
  return steps;
}

uint64_t Fold(uint64_t sum, uint8_t byte) {
  return (sum ^ byte) * 0x100000001B3ULL;
}

uint64_t WalkSum(int64_t cells, int64_t depth, int64_t age_after) {
  Sketch sketch(cells, depth, age_after);
  uint64_t sum = 0xCBF29CE484222325ULL;
  for (const Walk& step : Steps(20'000)) sum = Fold(sum, sketch.Add(step.id, step.count));
  for (const uint8_t byte : sketch.All()) sum = Fold(sum, byte);
  return sum;
}

void EqualsThePythonSpecification() {
  CHECK(WalkSum(16, 4, 40) == 0xE455F9DAC8505119ULL);
  CHECK(WalkSum(24, 3, 1000) == 0xAF9B305D95AEA7ACULL);
  CHECK(WalkSum(4, 1, 300) == 0x370D56DA2DC2110FULL);
  CHECK(Sketch::BucketOf(0) == 0 && Sketch::BucketOf(1) == 1385 && Sketch::StripeOf(1) == 86);
}

void NeverTooLowBeforeAgeing() {
  Sketch sketch(64, 4, int64_t{1} << 31);
  std::unordered_map<int64_t, int64_t> exact;
  bool low = false;
  for (const Walk& step : Steps(20'000)) {
    const int64_t count = std::min<int64_t>(step.count, 3);
    const int64_t seen = exact[step.id] += count;
    low |= sketch.Add(step.id, count) < std::min<int64_t>(seen, Sketch::kLargest);
    low |= sketch.Estimate(step.id) < std::min<int64_t>(seen, Sketch::kLargest);
  }
  CHECK(!low);
}

void CountsExactlyWhenAlone() {
  Sketch sketch(1024, 4, int64_t{1} << 31);
  CHECK(sketch.Estimate(-5) == 0);
  CHECK(sketch.Add(-5, 3) == 3);
  CHECK(sketch.Add(-5, 250) == 253);
  CHECK(sketch.Add(-5, 1) == 254);
  CHECK(sketch.Add(-5, INT64_MAX) == 255);
  CHECK(sketch.Estimate(-5) == 255);
}

void AgeingHalvesOneBucketAfterTheEstimate() {
  Sketch sketch(64, 4, 10);
  int64_t neighbour = 1;  // an id of another bucket
  while (Sketch::BucketOf(neighbour) == Sketch::BucketOf(0)) ++neighbour;
  CHECK(sketch.Add(neighbour, 6) == 6);
  CHECK(sketch.Add(0, 9) == 9);
  CHECK(sketch.Add(0, 1) == 10);
  CHECK(sketch.Estimate(0) == 5);
  CHECK(sketch.Estimate(neighbour) == 6);
  CHECK(sketch.Add(0, 4) == 9);
  CHECK(sketch.Add(0, 1) == 10);
  CHECK(sketch.Estimate(0) == 5);
}

void StripesCarryTheSketch() {
  Sketch from(32, 2, 1000), to(32, 2, 1000);
  for (const Walk& step : Steps(5000)) from.Add(step.id, 2);
  size_t length = 0;
  for (int64_t stripe = 0; stripe < Sketch::kStripes; ++stripe) {
    const Sketch& source = from;
    const auto bytes = source.StripeBytes(stripe);
    std::copy(bytes.begin(), bytes.end(), to.StripeBytes(stripe).begin());
    length += bytes.size();
  }
  CHECK(static_cast<int64_t>(length) == from.bytes() && from.bytes() == Sketch::Bytes(32));
  CHECK(std::equal(from.All().begin(), from.All().end(), to.All().begin()));
  Sketch loaded(32, 2, 1000);
  CHECK(loaded.Load(from.All()));
  CHECK(std::equal(from.All().begin(), from.All().end(), loaded.All().begin()));
  CHECK(!loaded.Load(from.All().first(8)));
}

void ThreadsThatOwnStripesGiveTheSameBytes() {
  const auto steps = Steps(20'000);
  Sketch alone(32, 4, 100), shared(32, 4, 100);
  for (const Walk& step : steps) alone.Add(step.id, step.count);
  std::vector<std::thread> threads;
  for (int64_t owner = 0; owner < 4; ++owner) {
    threads.emplace_back([&, owner] {
      for (const Walk& step : steps) {
        if (Sketch::StripeOf(step.id) % 4 == owner) shared.Add(step.id, step.count);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(std::equal(alone.All().begin(), alone.All().end(), shared.All().begin()));
}

// Of ids that occur once, the worst case, how many are taken to have occurred `needed` times; in parts of a
// thousand.
int64_t TooEarly(int64_t needed, int64_t cells) {
  Sketch sketch(cells, 4, (needed - 1) * cells / 3);
  int64_t early = 0;
  const int64_t n = Sketch::kBuckets * cells * 2 * needed;
  for (int64_t i = 0; i < n; ++i) early += sketch.Add(i * 7 + 3, 1) >= needed;
  return early * 1000 / n;
}

void FewIdsAreTooEarlyAtTheDefaultAge() {
  CHECK(TooEarly(2, 64) <= 25);
  CHECK(TooEarly(3, 64) <= 1);
  CHECK(TooEarly(20, 16) == 0);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::EqualsThePythonSpecification();
  headrace::NeverTooLowBeforeAgeing();
  headrace::CountsExactlyWhenAlone();
  headrace::AgeingHalvesOneBucketAfterTheEstimate();
  headrace::StripesCarryTheSketch();
  headrace::ThreadsThatOwnStripesGiveTheSameBytes();
  headrace::FewIdsAreTooEarlyAtTheDefaultAge();
  return headrace::ReportChecks("sketch_test");
}
