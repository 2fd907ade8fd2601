// Steps: tables, learning steps drawn at random, and what two tables have in common, for the tests of this
// folder.
//
// Thread safety: plain functions.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "snapshot/samples.h"
#include "table/capture.h"
#include "table/check.h"
#include "table/table.h"

namespace headrace {

// SGD at rate 1 from rows of zero: every value is minus the sum of its gradients.
inline TableSpec PlainSpec(int64_t dim) {
  TableSpec spec;
  spec.dim = dim;
  spec.rule.kind = RuleKind::kSgd;
  spec.rule.lr = 1.0f;
  return spec;
}

// Adagrad from random rows.
inline TableSpec AdagradSpec(int64_t dim) {
  TableSpec spec = PlainSpec(dim);
  spec.rule.kind = RuleKind::kAdagrad;
  spec.rule.p[0] = 0.1f;
  spec.rule.p[1] = 1e-10f;
  spec.init = {InitialKind::kUniform, 0.5f, 7};
  return spec;
}

inline Admission AfterCount(int64_t occurrences) {
  Admission admission;
  admission.kind = AdmissionKind::kCount;
  admission.occurrences = occurrences;
  return admission;
}

inline Admission AfterSketch(int64_t occurrences) {
  Admission admission;
  admission.kind = AdmissionKind::kSketch;
  admission.occurrences = occurrences;
  admission.cells_per_bucket = 16;
  admission.depth = 4;
  admission.age_after = 60;
  return admission;
}

// A learning step that owns its arrays.
struct Batch {
  std::vector<int64_t> ids, counts, times;
  std::vector<float> grads;
  Gradients view() const { return {ids, grads, counts, times}; }
};

// About `size` distinct ids below `range`, low ones more often.
inline std::vector<int64_t> DrawIds(Dice& dice, int64_t range, int64_t size) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t top = dice.Between(1, range);
    ids.push_back(dice.Between(0, top - 1) * 0x51ED27);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (size_t i = ids.size(); i > 1; --i) std::swap(ids[i - 1], ids[dice.Below(i)]);
  return ids;
}

inline Batch DrawBatch(Dice& dice, int64_t dim, int64_t range, int64_t size, int64_t time) {
  Batch batch;
  batch.ids = DrawIds(dice, range, size);
  for (size_t i = 0; i < batch.ids.size(); ++i) {
    batch.counts.push_back(dice.Between(1, 3));
    batch.times.push_back(time + dice.Between(-5, 5));
    for (int64_t j = 0; j < dim; ++j)
      batch.grads.push_back(static_cast<float>(dice.Between(-64, 64)) / 256.0f);
  }
  return batch;
}

inline bool SameFloats(const std::vector<float>& x, const std::vector<float>& y) {
  return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), 4 * x.size()) == 0);
}

// Marks up to the floor are not told apart once a table was saved.
inline std::vector<int64_t> MarksOf(const Parts& parts) {
  std::vector<int64_t> marks = parts.marks;
  const auto least = std::max<int64_t>(1, static_cast<int64_t>(parts.numbers.floor));
  for (int64_t& mark : marks) mark = std::max(mark, least);
  return marks;
}

inline void CheckSameParts(const Parts& x, const Parts& y) {
  CHECK(x.ids == y.ids);
  CHECK(x.times == y.times);
  CHECK(MarksOf(x) == MarksOf(y));
  CHECK(x.frequencies == y.frequencies);
  CHECK(SameFloats(x.rows, y.rows));
  CHECK(SameFloats(x.slots, y.slots));
  CHECK(x.pending_ids == y.pending_ids);
  CHECK(x.pending_counts == y.pending_counts);
  CHECK(x.pending_times == y.pending_times);
  CHECK(x.removed_ids == y.removed_ids);
  CHECK(x.removed_marks == y.removed_marks);
  CHECK(x.sketch == y.sketch);
  CHECK(SameNumbers(x.numbers, y.numbers));
}

inline Parts PartsOf(const Table& table) {
  Parts parts;
  CHECK(table.Export(&parts).ok());
  return parts;
}

}  // namespace headrace
