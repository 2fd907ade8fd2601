// Encoded rows against definitions in double precision, for every set of kernels.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "rules/kernels.h"
#include "table/check.h"

namespace headrace {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

// What the 16 bits of a half stand for; infinity and NaN have no place in a row.
double HalfValue(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 != 0 ? -size : size;
}

uint16_t Encoded(const Kernels& set, Precision precision, float value) {
  uint16_t bits;
  set.encode(precision, 1, &value, reinterpret_cast<std::byte*>(&bits));
  return bits;
}

float Decoded(const Kernels& set, Precision precision, uint16_t bits) {
  float value;
  set.decode(precision, 1, reinterpret_cast<const std::byte*>(&bits), &value);
  return value;
}

void EveryHalfComesBack(const Kernels& set) {
  std::vector<uint16_t> halves(65'536), back(halves.size());
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> values(halves.size());
  const auto n = static_cast<int64_t>(halves.size());
  set.decode(Precision::kFloat16, n, reinterpret_cast<const std::byte*>(halves.data()), values.data());
  set.encode(Precision::kFloat16, n, values.data(), reinterpret_cast<std::byte*>(back.data()));
  std::vector<uint16_t> drawn(halves.size());
  set.encode_stochastic(Precision::kFloat16, n, values.data(), 99,
                        reinterpret_cast<std::byte*>(drawn.data()));
  for (size_t i = 0; i < halves.size(); ++i) {
    CHECK(Decoded(set, Precision::kFloat16, halves[i]) == values[i] || std::isnan(values[i]));
    if ((i & 0x7C00) == 0x7C00) {
      CHECK((i & 0x3FF) == 0 ? std::isinf(values[i]) : std::isnan(values[i]));
      CHECK((back[i] & 0x7FFF) == 0x7BFF && (drawn[i] & 0x7FFF) == 0x7BFF);
      continue;
    }
    CHECK(values[i] == HalfValue(halves[i]) && std::signbit(values[i]) == (i >> 15 != 0));
    CHECK(back[i] == halves[i] && drawn[i] == halves[i]);  // exact values do not change
  }
}

void EveryBfloat16ComesBack(const Kernels& set) {
  for (uint32_t i = 0; i < 65'536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    if ((i & 0x7F80) == 0x7F80) continue;
    const float value = Decoded(set, Precision::kBfloat16, bits);
    uint16_t drawn;
    set.encode_stochastic(Precision::kBfloat16, 1, &value, i, reinterpret_cast<std::byte*>(&drawn));
    CHECK(Encoded(set, Precision::kBfloat16, value) == bits && drawn == bits);
  }
}

// Halfway between neighbours the even one is taken, and a little to either side the nearer one.
void NearestIsNearest(const Kernels& set) {
  for (uint16_t low = 0; low < 0x7BFF; ++low) {
    const auto high = static_cast<uint16_t>(low + 1);
    const auto middle = static_cast<float>((HalfValue(low) + HalfValue(high)) / 2);  // exact in float32
    CHECK(Encoded(set, Precision::kFloat16, middle) == (low % 2 == 0 ? low : high));
    CHECK(Encoded(set, Precision::kFloat16, std::nextafter(middle, 0.0f)) == low);
    CHECK(Encoded(set, Precision::kFloat16, std::nextafter(middle, kLargest)) == high);
    CHECK(Encoded(set, Precision::kFloat16, -middle) == ((low % 2 == 0 ? low : high) | 0x8000));
  }
  CHECK(Encoded(set, Precision::kFloat16, 65'519.0f) == 0x7BFF);
  CHECK(Encoded(set, Precision::kFloat16, kLargest) == 0x7BFF &&
        Encoded(set, Precision::kFloat16, -kLargest) == 0xFBFF);
  CHECK(Encoded(set, Precision::kBfloat16, kLargest) == 0x7F7F);
  CHECK(Encoded(set, Precision::kBfloat16, 1.00390625f) == 0x3F80);  // halfway to the next, which is odd
  CHECK(Encoded(set, Precision::kBfloat16, 1.01171875f) == 0x3F82);
}

// Each draw gives one of the two neighbours, and their mean is the value.
void StochasticKeepsTheMean(const Kernels& set) {
  constexpr int64_t kDim = 20;
  constexpr int kDraws = 20'000;
  for (const auto precision : {Precision::kBfloat16, Precision::kFloat16}) {
    for (const float value : {1.0009f, -0.3333f, 6.1e-5f, -3.3e-6f, 1e-7f, 700.3f}) {
      const std::vector<float> in(kDim, value);
      std::vector<uint16_t> bits(kDim);
      std::vector<float> out(kDim);
      const uint16_t nearest = Encoded(set, precision, value);
      double sum = 0.0, step = 0.0;
      for (int draw = 0; draw < kDraws; ++draw) {
        auto* row = reinterpret_cast<std::byte*>(bits.data());
        set.encode_stochastic(precision, kDim, in.data(),
                              RoundingStream(5, draw % 7, static_cast<uint64_t>(draw)), row);
        set.decode(precision, kDim, row, out.data());
        for (size_t j = 0; j < kDim; ++j) {
          CHECK(std::abs(bits[j] - nearest) <= 1);
          sum += out[j];
          step = std::max(step, std::fabs(static_cast<double>(out[j]) - value));
        }
      }
      const double mean = sum / (kDraws * kDim);
      CHECK(std::fabs(mean - value) < step * 5e-3);  // five standard deviations of the mean
    }
  }
}

void Int8HoldsItsRow(const Kernels& set) {
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  for (int64_t dim = 1; dim < 40; ++dim) {
    std::vector<float> in(static_cast<size_t>(dim)), out(in.size());
    float largest = 0.0f;
    for (float& value : in) {
      value = normal(random);
      largest = std::max(largest, std::fabs(value));
    }
    std::vector<std::byte> row(static_cast<size_t>(EncodedBytes(Precision::kInt8, dim)), std::byte{9});
    set.encode(Precision::kInt8, dim, in.data(), row.data());
    set.decode(Precision::kInt8, dim, row.data(), out.data());
    for (size_t j = 0; j < in.size(); ++j) CHECK(std::fabs(in[j] - out[j]) <= largest / 127 * 0.50001f);
    for (size_t j = 4 + in.size(); j < row.size(); ++j) CHECK(row[j] == std::byte{0});
    for (const float extreme :
         {0.0f, 1e-45f, 1e-42f, kLargest}) {  // too small for a scale, or just not too large
      std::fill(in.begin(), in.end(), extreme);
      set.encode(Precision::kInt8, dim, in.data(), row.data());
      set.decode(Precision::kInt8, dim, row.data(), out.data());
      for (const float value : out)
        CHECK(std::isfinite(value) && std::fabs(value - extreme) <= 1e-7f * extreme + 1e-43f);
    }
  }
}

}  // namespace
}  // namespace headrace

int main() {
  for (const char* name : {"portable", "avx2", "avx512"}) {
    if (!headrace::ChooseKernels(name)) continue;
    const headrace::Kernels& set = headrace::ActiveKernels();
    headrace::EveryHalfComesBack(set);
    headrace::EveryBfloat16ComesBack(set);
    headrace::NearestIsNearest(set);
    headrace::StochasticKeepsTheMean(set);
    headrace::Int8HoldsItsRow(set);
  }
  return headrace::ReportChecks("precision_test");
}
