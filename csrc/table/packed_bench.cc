// Microbenchmark of Packed: 26 plain tables of dim 16 with Adagrad, batches of 8192 with Zipf 1.1 ids.
//
//   packed_bench [rows per table = 100000] [threads = 1] [steps = 60] [full]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "table/packed.h"
#include "table/packed_step.h"

namespace {

constexpr int64_t kTables = 26, kBatch = 8192, kDim = 16, kBatches = 12;

int64_t IdOf(int64_t table, int64_t rank) {
  return static_cast<int64_t>((static_cast<uint64_t>(rank) + (static_cast<uint64_t>(table) << 40)) *
                              0x9E3779B97F4A7C15ULL);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The lower decile: what the code costs when nothing else disturbs it.
double Quiet(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 10];
}

}  // namespace

int main(int argc, char** argv) {
  using namespace headrace;
  const int64_t rows = argc > 1 ? std::atoll(argv[1]) : 100000;
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1;
  const int steps = argc > 3 ? std::atoi(argv[3]) : 60;
  const bool full = argc > 4 && std::string(argv[4]) == "full";
  TableSpec spec;
  spec.dim = kDim;
  spec.rule.kind = RuleKind::kAdagrad;
  spec.rule.lr = 0.05f;
  spec.rule.p[0] = 0.1f;
  spec.rule.p[1] = 1e-10f;
  spec.times = spec.history = full;
  std::vector<std::unique_ptr<Table>> tables;
  std::vector<Table*> pointers;
  std::vector<Feature> features;
  std::mt19937_64 random(1);
  std::vector<float> values(static_cast<size_t>(10000 * kDim), 0.01f);
  for (int32_t t = 0; t < kTables; ++t) {
    tables.push_back(std::make_unique<Table>(spec));
    for (int64_t at = 0; at < rows; at += 10000) {
      std::vector<int64_t> ids;
      for (int64_t i = at; i < std::min(rows, at + 10000); ++i) ids.push_back(IdOf(t, i));
      tables.back()->Assign(ids, {values.data(), ids.size() * kDim}, {});
    }
    pointers.push_back(tables.back().get());
    features.push_back({t, Pooling::kSum});
  }
  std::vector<double> cdf(static_cast<size_t>(rows));
  double total = 0;
  for (size_t i = 0; i < cdf.size(); ++i) cdf[i] = total += std::pow(static_cast<double>(i + 1), -1.1);
  std::vector<int64_t> shuffle(static_cast<size_t>(rows));
  for (size_t i = 0; i < shuffle.size(); ++i) shuffle[i] = static_cast<int64_t>(i);
  std::shuffle(shuffle.begin(), shuffle.end(), random);
  std::vector<std::vector<int64_t>> ids(kBatches * kTables);
  std::uniform_real_distribution<double> uniform(0, total);
  for (size_t b = 0; b < ids.size(); ++b) {
    for (int64_t i = 0; i < kBatch; ++i) {
      const auto rank = std::min<int64_t>(
          rows - 1, std::lower_bound(cdf.begin(), cdf.end(), uniform(random)) - cdf.begin());
      ids[b].push_back(IdOf(static_cast<int64_t>(b % kTables), shuffle[static_cast<size_t>(rank)]));
    }
  }
  std::vector<int64_t> offsets(kBatch + 1), times(kBatch, 1'000'000);
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<int64_t>(i);
  std::vector<float> out(static_cast<size_t>(kTables * kBatch * kDim)), grads(out.size(), 1e-3f);
  std::vector<const float*> grad_pointers;
  for (int64_t t = 0; t < kTables; ++t) grad_pointers.push_back(grads.data() + t * kBatch * kDim);
  const std::vector<float> rates(kTables, 0.05f);
  Packed packed(pointers, features);
  std::vector<double> forward, sum, apply, read, step_time;
  int64_t bytes = 0;
  for (const auto& table : tables) bytes += table->GetStats().bytes;
  std::printf("bytes beyond row and state: %.2f an id\n",
              static_cast<double>(bytes) / static_cast<double>(rows * kTables) - 8 * kDim);
  for (int s = 0; s < steps; ++s) {
    std::vector<FeatureIds> inputs;
    for (int64_t t = 0; t < kTables; ++t) {
      const auto& list = ids[static_cast<size_t>(s % kBatches * kTables + t)];
      inputs.push_back({list.data(), kBatch, offsets.data(), out.data() + t * kBatch * kDim});
    }
    std::unique_ptr<PackedStep> step;
    int32_t failed = -1;
    const double t0 = Now();
    packed.Forward(inputs, times, threads, &step);
    const double t1 = Now();
    step->Accumulate(grad_pointers, threads);
    const double t2 = Now();
    step->Apply(rates, threads, &failed);
    const double t3 = Now();
    packed.GiveBack(std::move(step));
    packed.Read(inputs, kBatch, threads);
    const double t4 = Now();
    if (s < steps / 4) continue;
    forward.push_back(t1 - t0);
    sum.push_back(t2 - t1);
    apply.push_back(t3 - t2);
    step_time.push_back(t3 - t0);
    read.push_back(t4 - t3);
  }
  const double ns = 1e9 / (kTables * kBatch);
  std::printf("ns an id: forward %.1f, sum %.1f, apply %.1f, step %.1f (%.1f M ids/s), read %.1f\n",
              Quiet(forward) * ns, Quiet(sum) * ns, Quiet(apply) * ns, Quiet(step_time) * ns,
              1e3 / (Quiet(step_time) * ns), Quiet(read) * ns);
  return 0;
}
