// Microbenchmarks of the kernels; prints nanoseconds a row for every set this processor runs. Build with
// `cmake --build build/native --target kernels_bench`, run by hand:
//   build/native/kernels_bench [dim] [rows]
// Every number is the median of 15 rounds over rows in random order; 2,000 rows, the standard, stay in the
// cache.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "rules/kernels.h"

namespace headrace {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kSamples = 65'536;

// A buffer whose rows start on 64-byte boundaries when dim is a multiple of 16.
struct Aligned {
  explicit Aligned(int64_t count)
      : data(static_cast<float*>(std::aligned_alloc(64, (static_cast<size_t>(count) * 4 + 63) / 64 * 64))) {
    if (data == nullptr) std::abort();
    std::fill(data, data + count, 0.01f);
  }
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;

  float* const data;
};

struct Work {
  Work(int64_t width, int64_t count)
      : dim(width), rows(count), grads(width * int64_t{kSamples}), out(width * int64_t{kSamples}) {}

  const int64_t dim, rows;
  std::vector<uint32_t> where;  // (kSamples)
  Aligned grads, out;           // (kSamples, dim)
};

template <typename Call>
void Measure(const std::string& name, Call call) {
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 25; ++round) {
    const auto start = Clock::now();
    call();
    const std::chrono::duration<double, std::nano> spent = Clock::now() - start;
    best = std::min(best, spent.count() / static_cast<double>(kSamples));
  }
  std::printf("%-10s %-26s %8.2f ns/row\n", ActiveKernels().name, name.c_str(), best);
}

void MeasureSteps(const Work& work) {
  const std::pair<const char*, RowRule> rules[] = {
      {"sgd", {RuleKind::kSgd, 0.05f, {}}},
      {"momentum", {RuleKind::kMomentum, 0.05f, {0.9f}}},
      {"adagrad", {RuleKind::kAdagrad, 0.05f, {0.1f, 1e-10f}}},
      {"row-wise adagrad", {RuleKind::kRowWiseAdagrad, 0.05f, {0.1f, 1e-10f}}},
      {"adam", {RuleKind::kAdam, 1e-3f, {0.9f, 0.999f, 1e-8f, 0.0f, 1.0f}}},
      {"adam, no correction", {RuleKind::kAdam, 1e-3f, {0.9f, 0.999f, 1e-8f}}},
      {"adam, paced by table", {RuleKind::kAdam, 1e-3f, {0.9f, 0.999f, 1e-8f, 0.0f, 2.0f}}},
      {"ftrl", {RuleKind::kFtrl, 0.05f, {0.1f, 0.0f, 1.0f}}},
      {"group ftrl", {RuleKind::kGroupFtrl, 0.05f, {0.1f, 0.0f, 1.0f}}},
  };
  for (const auto& [name, rule] : rules) {
    const int64_t slots = rule.SlotCount(work.dim);
    const int64_t whole = (work.dim + slots + 15) / 16 * 16;
    const Aligned rows(whole * work.rows);
    for (int64_t i = 0; i < work.rows; ++i) rule.FreshSlots(work.dim, rows.data + i * whole + work.dim);
    const Kernels& kernels = ActiveKernels();
    Measure(std::string("step, ") + name, [&] {
      for (size_t i = 0; i < kSamples; ++i) {
        float* row = rows.data + static_cast<int64_t>(work.where[i]) * whole;
        const Pace pace = {1'000, work.where[i] % 40};  // only a paced rule looks at it
        kernels.step(rule, rule.lr, pace, work.dim, row, row + work.dim,
                     work.grads.data + static_cast<int64_t>(i) * work.dim);
      }
    });
  }
}

void MeasureMoves(Work& work) {
  const Kernels& kernels = ActiveKernels();
  const auto n = static_cast<int64_t>(kSamples);
  const Aligned rows(work.dim * work.rows);
  std::vector<const float*> pointers;
  for (const uint32_t at : work.where) pointers.push_back(rows.data + static_cast<int64_t>(at) * work.dim);
  Measure("accumulate",
          [&] { kernels.accumulate(work.dim, n, work.where.data(), work.grads.data, work.dim, rows.data); });
  Measure("gather", [&] { kernels.gather(work.dim, n, pointers.data(), work.out.data, work.dim); });
  Measure("finite", [&] {
    if (!kernels.finite(work.grads.data, n * work.dim)) std::abort();
  });
  const std::pair<const char*, Clip> clips[] = {{"row norm", {1, {1e9f}}}, {"CowClip", {2, {1e9f, 1.0f}}}};
  for (const auto& [name, clip] : clips) {
    Measure(std::string("clip, ") + name, [&] {
      for (int64_t i = 0; i < n; ++i) {
        (void)kernels.clip(clip, work.dim, 2, pointers[static_cast<size_t>(i)],
                           work.grads.data + i * work.dim);
      }
    });
  }
}

void MeasurePrecisions(Work& work) {
  const Kernels& kernels = ActiveKernels();
  const std::pair<const char*, Precision> precisions[] = {
      {"bfloat16", Precision::kBfloat16}, {"float16", Precision::kFloat16}, {"int8", Precision::kInt8}};
  for (const auto& [name, precision] : precisions) {
    const int64_t bytes = EncodedBytes(precision, work.dim);
    std::vector<std::byte> rows(static_cast<size_t>(bytes * work.rows));
    const auto row = [&](size_t i) { return rows.data() + static_cast<int64_t>(work.where[i]) * bytes; };
    const auto grad = [&](size_t i) { return work.grads.data + static_cast<int64_t>(i) * work.dim; };
    Measure(std::string("encode, ") + name, [&, precision = precision] {
      for (size_t i = 0; i < kSamples; ++i) kernels.encode(precision, work.dim, grad(i), row(i));
    });
    if (precision != Precision::kInt8) {
      Measure(std::string("stochastic, ") + name, [&, precision = precision] {
        for (size_t i = 0; i < kSamples; ++i) {
          kernels.encode_stochastic(precision, work.dim, grad(i), RoundingStream(7, work.where[i], i),
                                    row(i));
        }
      });
    }
    Measure(std::string("decode, ") + name, [&, precision = precision] {
      for (size_t i = 0; i < kSamples; ++i) {
        kernels.decode(precision, work.dim, row(i), work.out.data + static_cast<int64_t>(i) * work.dim);
      }
    });
  }
}

void Run(int64_t dim, int64_t rows) {
  Work work(dim, rows);
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < kSamples; ++i) {
    work.where.push_back(static_cast<uint32_t>(random() % static_cast<uint64_t>(rows)));
  }
  for (int64_t i = 0; i < int64_t{kSamples} * dim; ++i) work.grads.data[i] = normal(random);
  for (const char* name : {"portable", "avx2", "avx512"}) {
    if (!ChooseKernels(name)) continue;
    MeasureSteps(work);
    MeasureMoves(work);
    MeasurePrecisions(work);
  }
}

}  // namespace
}  // namespace headrace

int main(int argc, char** argv) {
  headrace::Run(argc > 1 ? std::atoll(argv[1]) : 16, argc > 2 ? std::atoll(argv[2]) : 2'000);
  return 0;
}
