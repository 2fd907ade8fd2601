#include "snapshot/merge.h"

#include <algorithm>
#include <span>

namespace headrace {
namespace {

// Whether an id is in a list that ascends; asked for ids that ascend.
class Walk {
 public:
  explicit Walk(std::span<const int64_t> ids) : ids_(ids) {}
  bool Has(int64_t id) {
    while (at_ < ids_.size() && ids_[at_] < id) ++at_;
    return at_ < ids_.size() && ids_[at_] == id;
  }

 private:
  std::span<const int64_t> ids_;
  size_t at_ = 0;
};

// Visits two lists as one that ascends; an id of both is taken from the second alone.
template <typename First, typename Second>
void MergeIds(std::span<const int64_t> first, std::span<const int64_t> second, First take_first,
              Second take_second) {
  size_t i = 0, j = 0;
  while (i < first.size() || j < second.size()) {
    if (j == second.size() || (i < first.size() && first[i] < second[j])) {
      take_first(i++);
    } else {
      if (i < first.size() && first[i] == second[j]) ++i;
      take_second(j++);
    }
  }
}

void FoldRows(const Layout& layout, const Block& older, const Block& increment, int64_t halvings,
              uint64_t floor, Block* out) {
  Walk removed(increment.removed_ids);
  const int shift = static_cast<int>(std::min<int64_t>(halvings, 8));
  const auto old_row = [&](size_t place) {
    if (removed.Has(older.ids[place])) return;
    AppendRow(layout, older, place, out);
    if (layout.has_frequencies)
      out->frequencies.back() = static_cast<uint8_t>(out->frequencies.back() >> shift);
  };
  MergeIds(older.ids, increment.ids, old_row,
           [&](size_t place) { AppendRow(layout, increment, place, out); });
  const int64_t least = std::max<int64_t>(static_cast<int64_t>(floor), 1);
  for (int64_t& mark : out->marks) mark = std::max(mark, least);
}

void FoldWaiting(const Block& older, const Block& increment, bool whole_pending, Block* out) {
  Walk rows(increment.ids), removed(increment.removed_ids), forgotten(increment.forgotten_ids);
  const auto old_one = [&](size_t place) {
    const int64_t id = older.pending_ids[place];
    const bool gone = rows.Has(id) || removed.Has(id) || forgotten.Has(id);
    if (!gone && !whole_pending) AppendWaiting(older, place, out);
  };
  MergeIds(older.pending_ids, increment.pending_ids, old_one,
           [&](size_t place) { AppendWaiting(increment, place, out); });
}

void FoldRemovals(const Block& older, const Block& increment, uint64_t floor, Block* out) {
  Walk rows(increment.ids);
  const auto keep = [&](int64_t id, int64_t mark) {
    if (mark <= static_cast<int64_t>(floor)) return;
    out->removed_ids.push_back(id);
    out->removed_marks.push_back(mark);
  };
  const auto old_one = [&](size_t place) {
    if (!rows.Has(older.removed_ids[place])) keep(older.removed_ids[place], older.removed_marks[place]);
  };
  MergeIds(older.removed_ids, increment.removed_ids, old_one,
           [&](size_t place) { keep(increment.removed_ids[place], increment.removed_marks[place]); });
}

void Reserve(const Layout& layout, size_t rows, Block* block) {
  block->ids.reserve(rows);
  if (layout.has_times) block->times.reserve(rows);
  if (layout.has_marks) block->marks.reserve(rows);
  if (layout.has_frequencies) block->frequencies.reserve(rows);
  block->rows.reserve(rows * static_cast<size_t>(layout.row_bytes));
  block->slots.reserve(rows * static_cast<size_t>(layout.slots));
}

}  // namespace

void ClearBlock(int32_t stripe, Block* block) {
  block->stripe = stripe;
  for (auto* column :
       {&block->ids, &block->times, &block->marks, &block->pending_ids, &block->pending_counts,
        &block->pending_times, &block->removed_ids, &block->removed_marks, &block->forgotten_ids}) {
    column->clear();
  }
  block->frequencies.clear();
  block->rows.clear();
  block->slots.clear();
  block->sketch.clear();
}

void AppendRow(const Layout& layout, const Block& from, size_t place, Block* to) {
  to->ids.push_back(from.ids[place]);
  if (layout.has_times) to->times.push_back(from.times[place]);
  if (layout.has_marks) to->marks.push_back(from.marks[place]);
  if (layout.has_frequencies) to->frequencies.push_back(from.frequencies[place]);
  const std::byte* row = from.rows.data() + place * static_cast<size_t>(layout.row_bytes);
  to->rows.insert(to->rows.end(), row, row + layout.row_bytes);
  const float* slots = from.slots.data() + place * static_cast<size_t>(layout.slots);
  to->slots.insert(to->slots.end(), slots, slots + layout.slots);
}

void AppendWaiting(const Block& from, size_t place, Block* to) {
  to->pending_ids.push_back(from.pending_ids[place]);
  to->pending_counts.push_back(from.pending_counts[place]);
  to->pending_times.push_back(from.pending_times[place]);
}

bool Fold(const Layout& layout, const Block& older, const Block& increment, bool whole_pending,
          int64_t halvings, uint64_t floor, Block* out) {
  if (halvings < 0) return false;
  if (!increment.sketch.empty() && increment.sketch.size() != older.sketch.size()) return false;
  ClearBlock(older.stripe, out);
  Reserve(layout, older.ids.size() + increment.ids.size(), out);
  FoldRows(layout, older, increment, halvings, floor, out);
  FoldWaiting(older, increment, whole_pending, out);
  FoldRemovals(older, increment, floor, out);
  out->sketch = increment.sketch.empty() ? older.sketch : increment.sketch;
  MarkRange rows, removed;
  return IsSound(layout, *out, &rows, &removed);
}

}  // namespace headrace
