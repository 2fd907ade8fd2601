// Row rules: how one row moves when it receives a gradient. The specification is
// `headrace/store/row_rules.py`.
//
// Thread safety: immutable after construction; Step changes only the row it is given.
// Invariants:
//   1. Same operations in the same order as the NumPy reference, in float32, no contraction: equal bits.
//   2. A row's memory is its slots and nothing else: [embedding D][slots S] may be moved, saved and restored
//   alone.
#pragma once

#include <cstdint>

namespace headrace {

enum class RuleKind : int32_t { kSgd = 0, kAdagrad = 1, kAdam = 2, kFtrl = 3 };

// Parameters by kind (unused ones are 0):
//   kSgd     a=lr
//   kAdagrad a=lr b=initial_accumulator c=eps           slots: n (D)
//   kAdam    a=lr b=beta1 c=beta2 d=eps                 slots: m (D), v (D), beta1^t, beta2^t
//   kFtrl    a=lr b=l1 c=l2 d=beta                      slots: z (D), n (D)
struct RowRule {
  RuleKind kind = RuleKind::kSgd;
  float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;

  // Floats kept beside an embedding of `dim` floats.
  int64_t SlotCount(int64_t dim) const;

  // Writes the slots of a row that has not learned yet to slots[0..SlotCount(dim)).
  void FreshSlots(int64_t dim, float* slots) const;

  // Changes row[0..dim) and its slots by one step with grad[0..dim).
  // REQUIRES: row, slots and grad do not overlap; grad is finite. Cost: O(dim).
  void Step(int64_t dim, float* row, float* slots, const float* grad) const;
};

}  // namespace headrace
