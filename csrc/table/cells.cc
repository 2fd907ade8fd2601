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

void Cells::Grow(int64_t count) {
  if (count <= room_) return;
  const int64_t whole = int64_t{1} << shift_;
  if (count > int64_t{kNoCell}) throw std::bad_alloc();
  if (chunks_.empty()) chunks_.emplace_back();
  if (room_ < whole) {
    int64_t cells = std::max(room_, std::min(kFirst, whole));
    while (cells < std::min(count, whole)) cells *= 2;
    Resize(0, cells);
    room_ = cells;
  }
  while (room_ < count) {
    chunks_.emplace_back();
    try {
      Resize(chunks_.size() - 1, whole);
    } catch (...) {
      chunks_.pop_back();
      throw;
    }
    room_ += whole;
  }
}

void Cells::Shrink(int64_t count) {
  const int64_t whole = int64_t{1} << shift_;
  while (chunks_.size() > 1 && room_ - whole >= count) {
    bytes_ -= chunks_.back().bytes();
    chunks_.pop_back();
    room_ -= whole;
  }
  if (chunks_.size() != 1 || count > room_ / 2) return;
  int64_t cells = room_;
  while (cells / 2 >= std::max(count, kFirst)) cells /= 2;
  if (cells == room_) return;
  try {
    Resize(0, cells);
    room_ = cells;
  } catch (const std::bad_alloc&) {  // the smaller copy could not be had: keep the larger one
  }
}

}  // namespace headrace
