// Initial rows: what an id reads before it has a row, and what its row starts from.
//
// Thread safety: immutable after construction; every call may run in any thread.
// Invariants:
//   1. Fill is a pure function of (kind, value, key, id), equal bit by bit to `headrace/store/initial.py`.
#pragma once

#include <cstdint>

namespace headrace {

enum class InitialKind : int32_t { kConstant = 0, kUniform = 1, kNormal = 2 };

struct InitialRow {
  InitialKind kind = InitialKind::kConstant;
  float value = 0.0f;  // the constant, half the width, or the standard deviation
  uint64_t key = 0;    // 64-bit key of seed and table name

  // Writes the initial row of `id` to row[0..dim). Cost: O(dim), about 2 ns a float for kUniform.
  void Fill(int64_t id, int64_t dim, float* row) const;
};

}  // namespace headrace
