// Parts: all that a table holds, in the canonical form of `headrace/store/parts.py`: everything sorted by id.
//
// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <vector>

namespace headrace {

struct Counters {
  uint64_t mark = 0;   // operations so far
  uint64_t floor = 0;  // changes up to this mark are forgotten
  int64_t admitted = 0;
  int64_t filtered = 0;
  int64_t evicted = 0;
};

// Shapes: R rows, P ids waiting for admission, T removals that are not forgotten.
struct Parts {
  std::vector<int64_t> ids, times, marks;                           // (R)
  std::vector<float> rows, slots;                                   // (R, D), (R, S)
  std::vector<int64_t> pending_ids, pending_counts, pending_times;  // (P)
  std::vector<int64_t> removed_ids, removed_marks;                  // (T)
  Counters counters;
};

struct Changes {
  std::vector<int64_t> ids;      // ascending
  std::vector<float> rows;       // (ids.size(), D)
  std::vector<int64_t> removed;  // ascending
};

struct Stats {
  int64_t rows = 0, bytes = 0, admitted = 0, filtered = 0, evicted = 0, pending = 0, entries = 0;
  double load = 0.0;
};

}  // namespace headrace
