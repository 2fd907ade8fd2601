#include "score/layers.h"

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "table/check.h"

using namespace headrace::score;

namespace {

float Drawn(uint32_t& state) {
  state = state * 1664525U + 1013904223U;
  return static_cast<float>(static_cast<int32_t>(state) >> 8) * 0x1p-23f;
}

std::vector<float> Numbers(size_t count, uint32_t seed) {
  std::vector<float> made(count);
  for (float& value : made) value = Drawn(seed);
  return made;
}

bool Near(float got, double wanted) {
  return std::fabs(static_cast<double>(got) - wanted) < 1e-4;
}

void ComputesAsTheDoubleLoopDoes(const Layers& layers) {
  for (const int64_t outputs : {1, 31, 32, 100}) {
    for (const int64_t rows : {1, 3, 4, 7, 8, 21}) {
      const int64_t inputs = 19, width = Padded(outputs);
      const auto weights = Numbers(static_cast<size_t>(inputs * outputs), 3);
      const auto x = Numbers(static_cast<size_t>(rows * inputs), 4);
      auto start = Numbers(static_cast<size_t>(width), 5);
      for (int64_t o = outputs; o < width; ++o) start[static_cast<size_t>(o)] = 0.0f;
      std::vector<float> packed(static_cast<size_t>(inputs * width)), out(static_cast<size_t>(rows * width));
      Pack(weights.data(), inputs, outputs, packed.data());
      const Layer layer = {packed.data(), inputs, width};
      // Inputs in two blocks that lie the other way round in x.
      const Block blocks[] = {{12, 0, 7}, {0, 7, 12}};
      for (const bool cut : {false, true}) {
        layers.run(layer, blocks, 2, x.data(), inputs, rows, start.data(), cut, out.data());
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t o = 0; o < width; ++o) {
            double sum = start[static_cast<size_t>(o)];
            for (int64_t k = 0; k < inputs && o < outputs; ++k) {
              const int64_t at = k < 7 ? 12 + k : k - 7;
              sum += static_cast<double>(x[static_cast<size_t>(row * inputs + at)]) *
                     weights[static_cast<size_t>(o * inputs + k)];
            }
            if (cut && sum < 0) sum = 0;
            CHECK(Near(out[static_cast<size_t>(row * width + o)], sum));
          }
        }
      }
    }
  }
}

void DoesNotDependOnOtherRows(const Layers& layers) {
  const int64_t inputs = 33, width = 64, rows = 23;
  const auto weights = Numbers(static_cast<size_t>(inputs * width), 6);
  const auto x = Numbers(static_cast<size_t>(rows * inputs), 7),
             start = Numbers(static_cast<size_t>(width), 8);
  std::vector<float> packed(static_cast<size_t>(inputs * width)), all(static_cast<size_t>(rows * width));
  std::vector<float> one(static_cast<size_t>(width));
  Pack(weights.data(), inputs, width, packed.data());
  const Layer layer = {packed.data(), inputs, width};
  const Block block = {0, 0, inputs};
  layers.run(layer, &block, 1, x.data(), inputs, rows, start.data(), true, all.data());
  for (int64_t row = 0; row < rows; ++row) {
    layers.run(layer, &block, 1, x.data() + row * inputs, inputs, 1, start.data(), true, one.data());
    CHECK(std::memcmp(one.data(), all.data() + row * width, static_cast<size_t>(width) * sizeof(float)) == 0);
  }
}

void KeepsNaN(const Layers& layers) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> packed(32, 1.0f), start(32, 0.0f), out(32);
  const Layer layer = {packed.data(), 1, 32};
  const Block block = {0, 0, 1};
  layers.run(layer, &block, 1, &nan, 1, 1, start.data(), true, out.data());
  CHECK(std::isnan(out[0]) && std::isnan(out[31]));
}

bool Runs(const Layers* layers) {
  if (layers == nullptr) return false;
#if defined(__x86_64__) && defined(__GNUC__)
  if (layers == kAvx512Layers) return std::strcmp(ActiveLayers().name, "avx512") == 0;
  if (layers == kAvx2Layers) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return true;
}

}  // namespace

int main() {
  for (const Layers* layers : {kPortableLayers, kAvx2Layers, kAvx512Layers}) {
    if (!Runs(layers)) continue;
    ComputesAsTheDoubleLoopDoes(*layers);
    DoesNotDependOnOtherRows(*layers);
    KeepsNaN(*layers);
  }
  return headrace::ReportChecks("layers_test");
}
