#include "table/cells.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace headrace {

// Gives chunk number `chunk` memory for `cells` cells and copies what fits.
void Cells::Resize(size_t chunk, int64_t cells) {
  Pages fresh(std::max<int64_t>(cells * cell_bytes_, 1));
  Pages& old = chunks_[chunk].memory;
  if (old.bytes() > 0) std::memcpy(fresh.data(), old.data(), std::min(old.bytes(), fresh.bytes()));
  bytes_ += fresh.bytes() - old.bytes();
  old = std::move(fresh);
  chunks_[chunk].data = old.data();
}

void Cells::Cool() {
  const int64_t number = hot_chunks_ - 1;
  Chunk& chunk = chunks_[static_cast<size_t>(number)];
  std::byte* cold = file_->Take(chunk_bytes());
  const int64_t cells = std::min(room_ - (number << shift_), int64_t{1} << shift_);
  std::memcpy(cold, chunk.data, static_cast<size_t>(cells * cell_bytes_));
  bytes_ += chunk_bytes() - chunk.memory.bytes();
  chunk.memory = Pages();
  chunk.data = cold;
  room_ = std::max(room_, hot_chunks_ << shift_);  // it is whole now
  hot_chunks_ = number;
}

void Cells::Heat() {
  Chunk& chunk = chunks_[static_cast<size_t>(hot_chunks_)];
  Pages memory(chunk_bytes());
  std::memcpy(memory.data(), chunk.data, static_cast<size_t>(chunk_bytes()));
  file_->GiveBack(chunk.data, chunk_bytes());
  bytes_ += memory.bytes() - chunk_bytes();
  chunk.memory = std::move(memory);
  chunk.data = chunk.memory.data();
  ++hot_chunks_;
}

// The fewest cells that a chunk has.
int64_t Cells::Least(size_t chunk) const {
  const int64_t whole = int64_t{1} << shift_;
  return chunk == 0 ? std::min(kFirst, whole) : std::max<int64_t>(whole >> kSteps, 1);
}

void Cells::Grow(int64_t count, int64_t limit) {
  const int64_t whole = int64_t{1} << shift_;
  if (count > int64_t{kNoCell} - 1) throw std::bad_alloc();
  while (room_ < count) {
    const int64_t before = chunks_.empty() ? 0 : static_cast<int64_t>(chunks_.size() - 1) * whole;
    if (chunks_.empty() || room_ - before == whole) {
      if (chunks() >= limit || hot_chunks_ < chunks()) {
        chunks_.reserve(chunks_.size() + 1);
        std::byte* cold = file_->Take(chunk_bytes());
        chunks_.push_back({cold, Pages()});
        bytes_ += chunk_bytes();
        room_ = chunks() * whole;
      } else {
        chunks_.emplace_back();
        ++hot_chunks_;
      }
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
    if (hot_chunks_ < chunks()) {
      file_->GiveBack(chunks_.back().data, chunk_bytes());
      bytes_ -= chunk_bytes();
    } else {
      bytes_ -= chunks_.back().memory.bytes();
      --hot_chunks_;
    }
    chunks_.pop_back();
    room_ = static_cast<int64_t>(chunks_.size()) * whole;
  }
  if (chunks_.empty() || hot_chunks_ < chunks()) return;  // a chunk in the file is whole
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
