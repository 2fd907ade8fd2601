// Every set of kernels gives the bits of the portable one, and that one those of plain loops.
#include "rules/kernels.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "table/check.h"

namespace headrace {
namespace {

using Rows = std::vector<float>;

constexpr int64_t kDims = 67;  // whole vectors of every set, and every rest
constexpr float kInfinity = std::numeric_limits<float>::infinity();

enum class Range { kUsual, kSubnormal, kHuge, kSparse, kAny };

class Samples {
 public:
  explicit Samples(uint64_t seed) : random_(seed) {}

  float Draw(Range range) {
    switch (range) {
      case Range::kUsual:
        return normal_(random_);
      case Range::kSubnormal:
        return static_cast<float>(random_() % 4000) * 1e-45f - 2000 * 1e-45f;
      case Range::kHuge:
        return std::ldexp(normal_(random_), 50);
      case Range::kSparse:
        return random_() % 2 == 0 ? 0.0f : normal_(random_);
      case Range::kAny:
        break;
    }
    for (;;) {
      const auto bits = static_cast<uint32_t>(random_());
      float value;
      std::memcpy(&value, &bits, sizeof value);
      if (std::isfinite(value)) return value;
    }
  }

  Rows Draw(int64_t count, Range range) {
    Rows values(static_cast<size_t>(count));
    for (float& value : values) value = Draw(range);
    return values;
  }

  uint64_t Word() { return random_(); }

 private:
  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;
};

template <typename Value>
bool Same(const std::vector<Value>& a, const std::vector<Value>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Value)) == 0);
}

std::vector<const Kernels*> Sets() {
  std::vector<const Kernels*> sets;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    if (ChooseKernels(name)) sets.push_back(&ActiveKernels());
  }
  return sets;
}

std::vector<RowRule> Rules() {
  return {{RuleKind::kSgd, 0.1f, {}},
          {RuleKind::kMomentum, 0.1f, {0.9f}},
          {RuleKind::kMomentum, 0.1f, {0.7f, 1.0f}},
          {RuleKind::kAdagrad, 0.1f, {0.1f, 1e-10f}},
          {RuleKind::kAdagrad, 0.1f, {0.0f, 1e-10f}},
          {RuleKind::kRowWiseAdagrad, 0.1f, {0.1f, 1e-10f}},
          {RuleKind::kAdam, 0.01f, {0.9f, 0.999f, 1e-8f, 0.0f, 1.0f}},
          {RuleKind::kAdam, 0.01f, {0.9f, 0.999f, 1e-8f, 0.1f, 0.0f}},
          {RuleKind::kAdam, 0.01f, {0.9f, 0.999f, 1e-8f, 0.1f, 2.0f}},
          {RuleKind::kFtrl, 0.1f, {0.3f, 0.1f, 1.0f}},
          {RuleKind::kGroupFtrl, 0.1f, {1.0f, 0.1f, 1.0f}}};
}

void StepsAgree(const Kernels& portable, const Kernels& set) {
  Samples samples(1);
  for (const RowRule& rule : Rules()) {
    for (int64_t dim = 1; dim <= kDims; ++dim) {
      for (const Range range : {Range::kUsual, Range::kSubnormal, Range::kHuge, Range::kSparse}) {
        Rows row = samples.Draw(dim, Range::kUsual), other_row = row;
        Rows slots(static_cast<size_t>(rule.SlotCount(dim)));
        rule.FreshSlots(dim, slots.data());
        Rows other_slots = slots;
        for (const float lr : {rule.lr, 0.0f, 0.5f}) {
          const Rows grad = samples.Draw(dim, range);
          const Pace pace{samples.Word() % 5000 + 301, static_cast<uint32_t>(samples.Word() % 300)};
          portable.step(rule, lr, pace, dim, row.data(), slots.data(), grad.data());
          set.step(rule, lr, pace, dim, other_row.data(), other_slots.data(), grad.data());
        }
        CHECK(Same(row, other_row) && Same(slots, other_slots));
        for (const float value : row) CHECK(!std::isnan(value));
      }
    }
  }
}

void ClipsAgree(const Kernels& portable, const Kernels& set) {
  Samples samples(2);
  const Clip clips[] = {{0, {}},
                        {1, {2.0f}},
                        {2, {0.5f, 0.1f}},
                        {3, {0.5f, 0.1f}},
                        {2, {0.0f, 0.0f}},
                        {2, {0.5f, 0.1f, 1.0f}},
                        {3, {0.5f, 0.1f, 9.0f}},
                        {4, {0.3f}},
                        {5, {1.0f}}};
  for (const Clip& clip : clips) {
    for (int64_t dim = 1; dim <= kDims; ++dim) {
      for (const Range range : {Range::kUsual, Range::kSubnormal, Range::kSparse, Range::kAny}) {
        const Rows row = samples.Draw(dim, Range::kSparse);
        Rows grad = samples.Draw(dim, range), other = grad;
        const auto count = static_cast<int64_t>(samples.Word() % 9 + 1);
        const Rows before = grad;
        const int clipped = portable.clip(clip, dim, count, row.data(), grad.data());
        CHECK(set.clip(clip, dim, count, row.data(), other.data()) == clipped && Same(grad, other));
        CHECK(clipped == 1 || clip.kind >= 4 || Same(grad, before));
        for (const float value : grad) CHECK(std::isfinite(value));
      }
    }
  }
}

void ClipsHoldTheirBounds(const Kernels& set) {
  Rows grad = {3.0f, 4.0f};
  const Rows row = {0.6f, 0.8f};
  CHECK(set.clip({1, {5.0f}}, 2, 1, row.data(), grad.data()) == 0);  // just as long as allowed
  CHECK(set.clip({1, {2.5f}}, 2, 1, row.data(), grad.data()) == 1 && grad[0] == 1.5f && grad[1] == 2.0f);
  CHECK(set.clip({2, {0.5f, 0.1f}}, 2, 4, row.data(), grad.data()) == 1);  // to 4 * 0.5 * 1
  CHECK(std::fabs(std::hypot(grad[0], grad[1]) - 2.0f) < 1e-6f);
  const Rows none = {0.0f, 0.0f};
  CHECK(set.clip({2, {0.5f, 0.1f}}, 2, 4, none.data(), grad.data()) == 1);  // to 4 * 0.1
  CHECK(std::fabs(std::hypot(grad[0], grad[1]) - 0.4f) < 1e-6f);
  CHECK(set.clip({3, {0.5f, 0.1f}}, 2, 4, none.data(), grad.data()) ==
        1);  // to 4 * 0.5 * 0.5 * sqrt(2) * 0.1
  CHECK(std::fabs(std::hypot(grad[0], grad[1]) - 0.1f * std::sqrt(2.0f)) < 1e-6f);
  Rows still = {0.0f, 0.0f};
  CHECK(set.clip({2, {0.0f, 0.0f}}, 2, 1, row.data(), still.data()) == 0);
}

void SkippedColumnsStay(const Kernels& set) {
  Rows grad = {7.0f, 3.0f, 4.0f};
  const Rows row = {9.0f, 0.6f, 0.8f};
  CHECK(set.clip({2, {0.5f, 0.1f, 1.0f}}, 3, 4, row.data(), grad.data()) == 1);  // to 4 * 0.5 * 1
  CHECK(grad[0] == 7.0f && std::fabs(std::hypot(grad[1], grad[2]) - 2.0f) < 1e-6f);
  CHECK(set.clip({2, {0.0f, 0.0f, 3.0f}}, 3, 4, row.data(), grad.data()) == 0);
}

void PenaltiesAreAdded(const Kernels& set) {
  Rows grad = {1.0f, -2.0f, 3e38f};
  const Rows row = {0.5f, 4.0f, 3e38f};
  CHECK(set.clip({4, {0.5f}}, 3, 8, row.data(), grad.data()) == 0);
  CHECK(grad[0] == 1.25f && grad[1] == 0.0f && grad[2] == std::numeric_limits<float>::max());
  CHECK(set.clip({5, {0.5f}}, 2, 8, row.data(), grad.data()) == 0);
  CHECK(grad[0] == 3.25f && grad[1] == 16.0f);
}

void RowsDecay(const Kernels& set) {
  for (int64_t dim = 1; dim <= kDims; ++dim) {
    Rows row(static_cast<size_t>(dim), 2.0f);
    set.decay(0.5, 0, dim, row.data());
    CHECK(row[0] == 2.0f);
    set.decay(0.5, 3, dim, row.data());
    for (const float value : row) CHECK(value == 0.25f);
    set.decay(1.0 - 1e-9, 1 << 20, dim, row.data());  // which float32 does not tell from 1 before the power
    for (const float value : row) CHECK(std::fabs(value / 0.25 - std::pow(1.0 - 1e-9, 1 << 20)) < 1e-7);
    set.decay(0.0, 1, dim, row.data());
    for (const float value : row) CHECK(value == 0.0f);
  }
}

void RowsMove(const Kernels& set) {
  Samples samples(3);
  for (int64_t dim = 1; dim <= kDims; ++dim) {
    const int64_t n = 50, places = 7, stride = dim + dim % 3;
    const Rows grads = samples.Draw(n * stride, Range::kUsual);
    Rows sums = samples.Draw(places * dim, Range::kUsual), wanted = sums;
    std::vector<uint32_t> where;
    std::vector<const float*> rows;
    for (int64_t i = 0; i < n; ++i) {
      where.push_back(static_cast<uint32_t>(samples.Word() % places));
      rows.push_back(sums.data() + where.back() * dim);
      for (int64_t j = 0; j < dim; ++j) {
        float& sum = wanted[static_cast<size_t>(where.back() * dim + j)];
        sum = sum + grads[static_cast<size_t>(i * stride + j)];
      }
    }
    set.accumulate(dim, n, where.data(), grads.data(), stride, sums.data());
    CHECK(Same(sums, wanted));
    Rows out(static_cast<size_t>(n * stride), -1.0f), gathered = out;
    set.gather(dim, n, rows.data(), out.data(), stride);
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(gathered.data() + static_cast<int64_t>(i) * stride, rows[i],
                  static_cast<size_t>(dim) * sizeof(float));
    }
    CHECK(Same(out, gathered));  // and nothing between the rows was touched
    std::vector<uint32_t> taken;
    for (int64_t i = 0; i < n; ++i) taken.push_back(static_cast<uint32_t>((7 * i + 3) % n));
    Rows spread(static_cast<size_t>(n * dim)), copied = spread;
    set.spread(dim, n, taken.data(), rows.data(), spread.data(), dim);
    for (size_t i = 0; i < taken.size(); ++i) {
      std::memcpy(copied.data() + i * static_cast<size_t>(dim), rows[taken[i]],
                  static_cast<size_t>(dim) * sizeof(float));
    }
    CHECK(Same(spread, copied));
    set.add(dim, grads.data(), sums.data());
    for (size_t j = 0; j < static_cast<size_t>(dim); ++j) CHECK(sums[j] == wanted[j] + grads[j]);
  }
}

void FiniteFindsEveryPlace(const Kernels& set) {
  for (const size_t n : {1, 5, 16, 255, 256, 257, 600}) {
    Rows values(n, std::numeric_limits<float>::max());
    CHECK(set.finite(values.data(), static_cast<int64_t>(n)));
    for (size_t at = 0; at < n; ++at) {
      for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
        values[at] = bad;
        CHECK(!set.finite(values.data(), static_cast<int64_t>(n)));
      }
      values[at] = -std::numeric_limits<float>::max();
    }
  }
  CHECK(set.finite(nullptr, 0));
}

void PrecisionsAgree(const Kernels& portable, const Kernels& set) {
  Samples samples(4);
  for (const auto precision :
       {Precision::kFloat32, Precision::kBfloat16, Precision::kFloat16, Precision::kInt8}) {
    for (int64_t dim = 1; dim <= kDims; ++dim) {
      for (const Range range :
           {Range::kUsual, Range::kSubnormal, Range::kHuge, Range::kSparse, Range::kAny}) {
        const Rows in = samples.Draw(dim, range);
        const uint64_t stream = samples.Word();
        std::vector<std::byte> row(static_cast<size_t>(EncodedBytes(precision, dim))), other = row;
        Rows out(static_cast<size_t>(dim)), other_out = out;
        for (const bool stochastic : {false, true}) {
          if (stochastic) {
            portable.encode_stochastic(precision, dim, in.data(), stream, row.data());
            set.encode_stochastic(precision, dim, in.data(), stream, other.data());
          } else {
            portable.encode(precision, dim, in.data(), row.data());
            set.encode(precision, dim, in.data(), other.data());
          }
          CHECK(Same(row, other));
          portable.decode(precision, dim, row.data(), out.data());
          set.decode(precision, dim, row.data(), other_out.data());
          CHECK(Same(out, other_out));
          for (const float value : out) CHECK(std::isfinite(value));
        }
      }
    }
  }
}

void OnlyKnownSetsAreChosen() {
  CHECK(!ChooseKernels("none") && !ChooseKernels(""));
  CHECK(ChooseKernels("portable") && std::strcmp(ActiveKernels().name, "portable") == 0);
}

}  // namespace
}  // namespace headrace

int main() {
  const std::vector<const headrace::Kernels*> sets = headrace::Sets();
  for (const headrace::Kernels* set : sets) {
    headrace::StepsAgree(*sets[0], *set);
    headrace::ClipsAgree(*sets[0], *set);
    headrace::ClipsHoldTheirBounds(*set);
    headrace::SkippedColumnsStay(*set);
    headrace::PenaltiesAreAdded(*set);
    headrace::RowsDecay(*set);
    headrace::RowsMove(*set);
    headrace::FiniteFindsEveryPlace(*set);
    headrace::PrecisionsAgree(*sets[0], *set);
  }
  headrace::OnlyKnownSetsAreChosen();
  return headrace::ReportChecks("kernels_test");
}
