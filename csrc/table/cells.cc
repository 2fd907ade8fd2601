#include "table/cells.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace headrace {

// Gives chunk number `chunk` memory for `cells` cells and copies what fits.
void Cells::Resize(size_t chunk, int64_t cells) {
  Pages fresh(std::max<int64_t>(cells * cell_bytes_, 1));
  Pages& old = chunks_[chunk];
  if (old.bytes() > 0) std::memcpy(fresh.data(), old.data(), std::min(old.bytes(), fresh.bytes()));
  bytes_ += fresh.bytes() - old.bytes();
  old = std::move(fresh);
}

// The fewest cells that a chunk has.
int64_t Cells::Least(size_t chunk) const {
  const int64_t whole = int64_t{1} << shift_;
  return chunk == 0 ? std::min(kFirst, whole) : std::max<int64_t>(whole >> kSteps, 1);
}

void Cells::Grow(int64_t count) {
  const int64_t whole = int64_t{1} << shift_;
  if (count > int64_t{kNoCell} - 1) throw std::bad_alloc();
  while (room_ < count) {
    const int64_t before = chunks_.empty() ? 0 : static_cast<int64_t>(chunks_.size() - 1) * whole;
    if (chunks_.empty() || room_ - before == whole) {
      chunks_.emplace_back();
      continue;
    }
    const size_t chunk = chunks_.size() - 1;
    int64_t cells = std::max(room_ - before, Least(chunk));
    while (cells < std::min(count - before, whole)) cells *= 2;
    Resize(chunk, std::min(cells, whole));
    room_ = before + std::min(cells, whole);
  }
}

void Cells::Shrink(int64_t count) {
  const int64_t whole = int64_t{1} << shift_;
  while (chunks_.size() > 1 && static_cast<int64_t>(chunks_.size() - 1) * whole >= count) {
    bytes_ -= chunks_.back().bytes();
    chunks_.pop_back();
    room_ = static_cast<int64_t>(chunks_.size()) * whole;
  }
  if (chunks_.empty()) return;
  const int64_t before = static_cast<int64_t>(chunks_.size() - 1) * whole;
  int64_t cells = room_ - before;
  while (cells / 2 >= std::max(count - before, Least(chunks_.size() - 1))) cells /= 2;
  if (cells == room_ - before) return;
  try {
    Resize(chunks_.size() - 1, cells);
    room_ = before + cells;
  } catch (const std::bad_alloc&) {  // the smaller copy could not be had: keep the larger one
  }
}

}  // namespace headrace
