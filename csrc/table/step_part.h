// StepPart: the ids of one step that one thread takes care of: all of a table's, or those of some of its
// stripes; and TableStep, the parts of one table.
//
// Thread safety: a part belongs to one thread at a time.
// Invariants:
//   1. ids are unique, over all parts of a step too; parts of one table hold ids of disjoint stripes.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "table/cells.h"
#include "table/id_map.h"

namespace headrace {

inline constexpr int64_t kNever = std::numeric_limits<int64_t>::min();

struct StepPart {
  // An id without a row.
  struct Absent {
    uint32_t index;        // into ids
    Cell counter;          // its count in the filter, or kNoCell
    int64_t time;          // of its last touch, this step included
    bool counted = false;  // has been counted before this step
  };

  // What to do. Shapes: ids, counts, times (U), grads (U, D).
  std::span<const int64_t> ids;
  std::span<const int64_t> counts;
  std::span<const int64_t> times;
  const float* grads = nullptr;
  bool finite = false;               // whether grads are known to be
  const uint64_t* hashes = nullptr;  // (U), of the caller's or in own_hashes
  std::vector<uint64_t> own_hashes;
  std::vector<Cell> cells;          // (U) the row of each id, or kNoCell
  uint64_t version = ~uint64_t{0};  // of the row store that `cells` were found in

  // What was decided.
  std::vector<Absent> fresh;    // get a row
  std::vector<Absent> waiting;  // do not, and are counted
  std::vector<Absent> dropped;  // neither: no room; their counts go
  std::vector<Cell> rows;       // cells for `fresh`
  std::vector<float> scratch;   // (2 D)
  int64_t filtered = 0;
  int64_t learned = 0, clipped = 0;  // rows that learned, and those whose gradient a clip made shorter
  int64_t newest = kNever;
  int64_t bad_row = -1;  // first row that is not finite

  // Hashes the ids into own_hashes. Throws std::bad_alloc.
  void Hash() {
    own_hashes.resize(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) own_hashes[i] = IdMap::Hash(ids[i]);
    hashes = own_hashes.data();
  }

  void Reset() {
    fresh.clear();
    waiting.clear();
    dropped.clear();
    rows.clear();
    filtered = 0;
    learned = clipped = 0;
    newest = kNever;
    bad_row = -1;
  }
};

struct TableStep {
  using PerStripe = std::array<int32_t, IdMap::kStripeCount>;

  std::vector<StepPart> parts;
  std::vector<Cell> victims;          // rows that make room
  std::vector<Cell> counter_victims;  // counts that make room
  PerStripe leaving{};                // victims by stripe
  PerStripe counters_leaving{};
};

}  // namespace headrace
