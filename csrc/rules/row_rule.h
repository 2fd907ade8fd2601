// Row rules: how one row moves when it receives a gradient. The specification is
// `headrace/store/row_rules.py`; the steps themselves are in kernels.inc, once for each instruction set.
//
// Thread safety: plain data; immutable after construction.
// Invariants:
//   1. Same operations in the same order as the NumPy reference, in float32, no contraction: equal bits.
//   2. A row's memory is its slots and nothing else: [embedding D][slots S] may be moved, saved and restored
//   alone.
#pragma once

#include <cstdint>

namespace headrace {

enum class RuleKind : int32_t {
  kSgd = 0,
  kAdagrad = 1,
  kAdam = 2,  // Adam and AdamW
  kFtrl = 3,
  kMomentum = 4,
  kRowWiseAdagrad = 5,
  kGroupFtrl = 6,
};

// Parameters by kind (unused ones are 0), S slots of a row:
//   kSgd             none                                                     no slots
//   kAdagrad         initial_accumulator, eps                                 n (D)
//   kAdam            beta1, beta2, eps, weight_decay, 1 if corrected by row   m (D), v (D), and if corrected
//                    or 2 by table                                            by row beta1^t, beta2^t
//   kFtrl            l1, l2, beta                                             z (D), n (D)
//   kMomentum        momentum, 1 if nesterov                                  mean (D)
//   kRowWiseAdagrad  initial_accumulator, eps                                 n (1)
//   kGroupFtrl       l1, l2, beta                                             z (D), n (D)
struct RowRule {
  RuleKind kind = RuleKind::kSgd;
  float lr = 0.0f;  // without a schedule; a step is given its own
  float p[5] = {};

  // Whether its steps depend on how many updates a row has missed.
  bool Paced() const { return kind == RuleKind::kAdam && p[4] == 2.0f; }

  // Floats kept beside an embedding of `dim` floats.
  int64_t SlotCount(int64_t dim) const;

  // Writes the slots of a row that has not learned yet to slots[0..SlotCount(dim)).
  void FreshSlots(int64_t dim, float* slots) const;
};

}  // namespace headrace
