// The layers for any processor, and the choice between the sets.
#include "score/layers.h"

#if defined(__GNUC__)
#define HEADRACE_LAYERS_NAME "portable"
#define HEADRACE_VECTOR 4
#define HEADRACE_ROWS 4
#include "score/layers.inc"
#endif

namespace headrace::score {

#ifdef HEADRACE_LAYERS_NAME
const Layers* const kPortableLayers = &kLayers;
#else
namespace {

void Plain(const Layer& layer, const Block* blocks, int count, const float* x, int64_t stride, int64_t rows,
           const float* start, bool cut, float* out) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t o = 0; o < layer.outputs; ++o) {
      float sum = start[o];
      const float* weights = layer.packed + o / kPanel * kPanel * layer.inputs + o % kPanel;
      for (int b = 0; b < count; ++b) {
        for (int64_t k = 0; k < blocks[b].count; ++k) {
          sum += x[row * stride + blocks[b].x_at + k] * weights[(blocks[b].weight_at + k) * kPanel];
        }
      }
      out[row * layer.outputs + o] = cut && sum < 0.0f ? 0.0f : sum;
    }
  }
}

const Layers kLayers = {"portable", &Plain};

}  // namespace
const Layers* const kPortableLayers = &kLayers;
#endif

void Pack(const float* weights, int64_t inputs, int64_t outputs, float* packed) {
  for (int64_t first = 0; first < Padded(outputs); first += kPanel) {
    for (int64_t k = 0; k < inputs; ++k) {
      for (int64_t o = first; o < first + kPanel; ++o) {
        *packed++ = o < outputs ? weights[o * inputs + k] : 0.0f;
      }
    }
  }
}

const Layers& ActiveLayers() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const Layers* const best = [] {
    if (kAvx512Layers != nullptr && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("fma")) {
      return kAvx512Layers;
    }
    if (kAvx2Layers != nullptr && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      return kAvx2Layers;
    }
    return kPortableLayers;
  }();
  return *best;
#else
  return *kPortableLayers;
#endif
}

}  // namespace headrace::score
