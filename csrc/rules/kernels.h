// Kernels: the loops over floats of the store, once for each instruction set, chosen when the program starts
// to use them. The specifications are `headrace/store/row_rules.py`, `headrace/optim/row_clip.py` and
// `headrace/store/precision.py`.
//
// Thread safety: a kernel changes only the memory it is given. ActiveKernels may be called in any thread;
// ChooseKernels only while no other thread uses the store.
// Invariants:
//   1. All sets give equal bits, which are those of the NumPy reference: float32, each operation rounded
//      once, no contraction, no function but sqrt.
//   2. A sum over a row is eight running sums (sum i takes coordinates i, i + 8, ...), folded in halves.
//   3. Whatever finite numbers go in, encoded rows decode to finite numbers.
//   4. This header and kernels.inc define no function that the linker could share between instruction sets.
//
// Memory needs the alignment of its numbers (halves 2, otherwise 4 bytes); rows and sums on 64-byte
// boundaries are the fastest. Cost: O(dim) a row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rules/row_rule.h"

namespace headrace {

enum class Precision : int32_t { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2, kInt8 = 3 };

// Bytes of an encoded row: 4, 2 or 2 a coordinate; int8 is [scale float32][dim int8], rounded up to 4 bytes.
int64_t EncodedBytes(Precision precision, int64_t dim);

// A change of a row's gradient before the rule, most often a clip:
//   0  none
//   1  row norm: p[0] is the largest norm
//   2  CowClip as in the paper, 3 as in its code: p[0] is the ratio, p[1] the lower bound, p[2] how many
//   leading
//      coordinates are left alone
//   4  L2: adds p[0] times the row, which is twice the weight of the penalty; 5 the same times the count
struct Clip {
  int32_t kind = 0;
  float p[4] = {};
};

// Where a step of a row stands in time: its update number, 1 for the first, and how many before it the row
// has missed since it last learned. Only rules that ask for it (RowRule::Paced) look at it.
struct Pace {
  uint64_t update = 1;
  uint32_t missed = 0;
};

// The stream of random bits with which the row of `id` is rounded by update number `step`.
uint64_t RoundingStream(uint64_t key, int64_t id, uint64_t step);

struct Kernels {
  const char* name;  // "portable", "avx2", "avx512"

  // One row learns at rate `lr`: changes row[0..dim) and its slots.
  // REQUIRES: row, slots and grad do not overlap; grad is finite; 0 <= lr < infinity.
  void (*step)(const RowRule& rule, float lr, Pace pace, int64_t dim, float* row, float* slots,
               const float* grad);

  // Multiplies row[0..dim) by base^missed: that factor in float64, then rounded to float32.
  void (*decay)(double base, uint32_t missed, int64_t dim, float* row);

  // Changes grad[0..dim), the sum of `count` occurrences, by the clip; returns 1 if it was clipped, else 0.
  // REQUIRES: row and grad do not overlap.
  int (*clip)(const Clip& clip, int64_t dim, int64_t count, const float* row, float* grad);

  // sums[where[i] * dim ..] += grads[i * stride ..] for i in [0, n), in that order.
  // REQUIRES: grads and sums do not overlap. Fastest for dim 8, 16, 32, 64.
  void (*accumulate)(int64_t dim, int64_t n, const uint32_t* where, const float* grads, int64_t stride,
                     float* sums);

  // out[i * stride ..] = rows[i][0..dim) for i in [0, n); fetches rows ahead of their turn.
  // REQUIRES: no row overlaps out. Fastest for dim 8, 16, 32, 64.
  void (*gather)(int64_t dim, int64_t n, const float* const* rows, float* out, int64_t stride);

  // out[i * dim ..] = rows[where[i]][0..dim) for i in [0, n).
  // REQUIRES: no row overlaps out. Fastest for dim 8, 16, 32, 64.
  void (*spread)(int64_t dim, int64_t n, const uint32_t* where, const float* const* rows, float* out,
                 int64_t stride);

  // sum[0..dim) += x[0..dim). REQUIRES: they do not overlap.
  void (*add)(int64_t dim, const float* x, float* sum);

  // Exact float32 of an encoded row. REQUIRES: they do not overlap.
  void (*decode)(Precision precision, int64_t dim, const std::byte* row, float* out);

  // Rounds to the nearest (ties to even); beyond the range to the largest number.
  // REQUIRES: in is finite and does not overlap row.
  void (*encode)(Precision precision, int64_t dim, const float* in, std::byte* row);

  // Rounds bfloat16 and float16 up or down with the bits of a stream (see RoundingStream), so that the mean
  // is kept; otherwise as encode, which it is for the other precisions.
  void (*encode_stochastic)(Precision precision, int64_t dim, const float* in, uint64_t stream,
                            std::byte* row);

  // Whether all of values[0..n) are finite.
  bool (*finite)(const float* values, int64_t n);
};

// The best set that this processor runs, unless another was chosen.
const Kernels& ActiveKernels();

// Chooses a set by name; false when there is none or this processor does not run it. For tests and
// benchmarks.
bool ChooseKernels(const char* name);

// One for each file that includes kernels.inc; null when it was compiled without its instruction set.
extern const Kernels* const kPortableKernels;
extern const Kernels* const kAvx2Kernels;
extern const Kernels* const kAvx512Kernels;

}  // namespace headrace
