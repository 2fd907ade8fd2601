// Admission: which ids get a row. Exact counts live in the table's filter, approximate ones in its sketch; a
// probability needs no memory.
//
// Thread safety: immutable after construction.
// Invariants:
//   1. Admits is a pure function of (key, id, count, update), equal to `headrace/store/admission.py`.
#pragma once

#include <cstdint>

#include "table/hash.h"

namespace headrace {

enum class AdmissionKind : int32_t { kAll = 0, kCount = 1, kProbability = 2, kSketch = 3 };

struct Admission {
  AdmissionKind kind = AdmissionKind::kAll;
  int64_t occurrences = 1;       // kCount, kSketch: total needed
  double refusal = 0.0;          // kProbability: 1 - chance per occurrence
  uint64_t key = 0;              // kProbability: 64-bit key of seed and table name
  int64_t cells_per_bucket = 0;  // kSketch
  int64_t depth = 0;             // kSketch
  int64_t age_after = 0;         // kSketch

  // kProbability: whether `count` occurrences in update number `update` admit `id`.
  bool Admits(int64_t id, int64_t count, uint64_t update) const {
    double refused = 1.0, square = refusal;
    for (auto left = static_cast<uint64_t>(count); left != 0; left >>= 1, square = square * square) {
      if (left & 1) refused = refused * square;
    }
    const auto word = Mix64(Stream(key, id) + update);
    return static_cast<double>(word >> 11) * 0x1p-53 >= refused;
  }
};

}  // namespace headrace
