// Layers: fully connected layers over float32, for scoring.
//
// Thread safety: a layer changes only the memory it is given.
// Invariants:
//   1. An output is its start value, then one fused multiplication and addition for every input, in the order
//      of the blocks. So it depends on its own row alone, whatever rows are computed with it.
//   2. Sets with fused operations (avx2, avx512) give equal bits; the portable one rounds twice and differs
//   in
//      the last ones.
#pragma once

#include <cstdint>

namespace headrace::score {

inline constexpr int64_t kPanel = 32;  // outputs that lie side by side in packed weights

// So many inputs that lie one behind another, in the rows of x and in the rows of the weights.
struct Block {
  int64_t x_at;
  int64_t weight_at;
  int64_t count;
};

struct Layer {
  const float* packed;  // (outputs / kPanel panels, inputs, kPanel), zeros where there is no output
  int64_t inputs;
  int64_t outputs;  // a multiple of kPanel
};

struct Layers {
  const char* name;
  // out[row * outputs ..] = start + x[row * stride ..] * weights for rows [0, rows); cut off below 0 if told.
  void (*run)(const Layer& layer, const Block* blocks, int count, const float* x, int64_t stride,
              int64_t rows, const float* start, bool cut, float* out);
};

inline int64_t Padded(int64_t outputs) {
  return (outputs + kPanel - 1) / kPanel * kPanel;
}

// Writes (outputs, inputs) row-major weights as a Layer wants them: Padded(outputs) * inputs floats.
void Pack(const float* weights, int64_t inputs, int64_t outputs, float* packed);

// The best set that this processor runs.
const Layers& ActiveLayers();

extern const Layers* const kPortableLayers;
extern const Layers* const kAvx2Layers;
extern const Layers* const kAvx512Layers;

}  // namespace headrace::score
