// Block: what a table holds in one stripe (1/256 of all ids, by the top byte of their hash), at one mark. A
// snapshot is its 256 blocks in order and the counters.
//
// Thread safety: plain data.
// Invariants:
//   1. Every list of ids ascends and holds only ids of the stripe.
//   2. Columns that the table does not keep are empty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace headrace {

inline constexpr int32_t kStripes = 256;

// Shapes: n rows, P ids that wait for admission, T removals, G forgotten counts.
struct Block {
  int32_t stripe = 0;
  std::vector<int64_t> ids;          // (n)
  std::vector<int64_t> times;        // (n) event times, µs
  std::vector<int64_t> marks;        // (n) mark of the last change
  std::vector<uint8_t> frequencies;  // (n)
  std::vector<std::byte> rows;       // (n, row bytes), in the table's precision
  std::vector<float> slots;          // (n, S)
  std::vector<int64_t> pending_ids, pending_counts, pending_times;  // (P)
  std::vector<int64_t> removed_ids, removed_marks;                  // (T) removals that are not forgotten
  std::vector<int64_t> forgotten_ids;  // (G) increments only: counts that went without becoming a row
  std::vector<std::byte> sketch;       // this stripe's part of the count-min filter; empty if unchanged
};

// The numbers of a table that belong to no stripe.
struct Numbers {
  uint64_t mark = 0;   // operations so far
  uint64_t floor = 0;  // changes up to this mark are forgotten
  int64_t admitted = 0;
  int64_t filtered = 0;
  int64_t evicted = 0;
  int64_t halvings = 0;  // how often all frequencies were halved
  int64_t newest = 0;    // newest event time any write has given; the smallest int64 before the first
};

}  // namespace headrace
