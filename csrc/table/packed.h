// Packed: all features of a model against all of its tables in one call: ids in, pooled rows out, gradients
// back, every table updated. What `headrace/store/collection.py` does feature by feature, bit by bit, on
// several threads.
//
// A forward pass finds the distinct ids of every table once (a small hash table that stays in the
// second-level cache), looks each up once, and keeps where every occurrence belongs; the backward pass adds
// gradients in the order of occurrence and steps each row once, at the cell that the forward pass found.
//
// Work is split by table, and a table that has much of it by stripes too. Sums are in the order of occurrence
// however the work is split: results do not depend on the number of threads.
//
// Thread safety: Read, Fetch and Forward may run in several threads at once. A PackedStep belongs to one
// thread at a time. Invariants:
//   1. Apply changes every table or, when it is refused, none.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "table/dedupe.h"
#include "table/step_part.h"
#include "table/table.h"

namespace headrace {

enum class Pooling : int32_t { kNone = 0, kSum = 1, kMean = 2 };

struct Feature {
  int32_t table = 0;
  Pooling pooling = Pooling::kSum;
};

// The ids of one feature of a batch: example b has values[offsets[b] .. offsets[b + 1]).
// out: (bags, D) when pooled, else (n, D).
struct FeatureIds {
  const int64_t* values = nullptr;
  int64_t n = 0;
  const int64_t* offsets = nullptr;  // (bags + 1)
  float* out = nullptr;
  int64_t stride = 0;  // floats from one row of `out` to the next; 0: D, they stand side by side
};

class PackedStep;

class Packed {
 public:
  // REQUIRES: tables outlive this. May throw std::bad_alloc.
  Packed(std::vector<Table*> tables, std::vector<Feature> features);
  ~Packed();

  // Looks up and pools, and keeps nothing. Refuses kInvalid (detail: feature) when offsets do not ascend from
  // 0 to n. REQUIRES: one entry a feature.
  Status Read(std::span<const FeatureIds> inputs, int64_t bags, int threads) const;

  // The same, and keeps what the backward pass needs in *out. times: (bags), event times in µs.
  Status Forward(std::span<const FeatureIds> inputs, std::span<const int64_t> times, int threads,
                 std::unique_ptr<PackedStep>* out);

  // Where tables have waited for their disks lately: asks for the pages of all cold rows of a batch that will
  // be looked up soon, and waits for none of them.
  Status Fetch(std::span<const FeatureIds> inputs) const;

  // Takes a step that is done with, for its memory.
  void GiveBack(std::unique_ptr<PackedStep> step);

  const std::vector<Table*>& tables() const { return tables_; }
  const std::vector<Feature>& features() const { return features_; }

 private:
  static void ReadBags(const Table& table, const FeatureIds& ids, Pooling pooling, bool one_each,
                       int64_t first, int64_t last);

  std::vector<Table*> tables_;
  std::vector<Feature> features_;
  std::mutex lock_;
  std::vector<std::unique_ptr<PackedStep>> spare_;
};

// What the offsets of a feature are.
enum class Offsets { kOneEach, kJagged, kBroken };
Offsets CheckOffsets(const FeatureIds& ids, int64_t bags);
// Whether they are the very same array: a batch of one id a feature often has one for all.
bool SameOffsets(const FeatureIds& x, const FeatureIds& y);

// out (bags, D) or (n, D) of bags [first, last) of one feature; rows[i] is the row of its i-th value.
void PoolRows(const FeatureIds& ids, Pooling pooling, bool one_each, int64_t first, int64_t last, int64_t dim,
              const float* const* rows);

}  // namespace headrace
