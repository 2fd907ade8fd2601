// Parts: all that a table holds, in the canonical form of `headrace/store/parts.py`: everything sorted by id.
//
// Thread safety: plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "snapshot/block.h"

namespace headrace {

// Shapes: R rows, P ids waiting for admission, T removals that are not forgotten.
struct Parts {
  std::vector<int64_t> ids, times, marks;                           // (R); times and marks may be empty
  std::vector<uint8_t> frequencies;                                 // (R)
  std::vector<float> rows, slots;                                   // (R, D), (R, S)
  std::vector<int64_t> pending_ids, pending_counts, pending_times;  // (P)
  std::vector<int64_t> removed_ids, removed_marks;                  // (T)
  std::vector<uint8_t> sketch;
  Numbers numbers;
};

struct Changes {
  std::vector<int64_t> ids;      // ascending
  std::vector<float> rows;       // (ids.size(), D)
  std::vector<int64_t> removed;  // ascending
};

struct Stats {
  int64_t rows = 0, bytes = 0, admitted = 0, filtered = 0, evicted = 0, pending = 0;
  double load = 0.0;
};

}  // namespace headrace
