#include "table/arena.h"

#include <algorithm>
#include <new>

namespace headrace {
namespace {

constexpr int64_t kChunkBytes = 256 * 1024;
constexpr int64_t kMinChunkCells = 64;  // one word of the bitmap of live cells

}  // namespace

Arena::Arena(int64_t cell_bytes)
    : cell_bytes_((cell_bytes + 7) / 8 * 8), fetch_bytes_(std::min(cell_bytes_, kFetchBytes)) {
  int64_t cells = kMinChunkCells;
  while (cells * 2 * cell_bytes_ <= kChunkBytes) cells *= 2;
  while ((int64_t{1} << shift_) < cells) ++shift_;
  mask_ = static_cast<uint32_t>(cells - 1);
}

void Arena::Reserve(int64_t count) {
  const int64_t cells = int64_t{mask_} + 1;
  const int64_t fresh = std::max<int64_t>(count - free_count_, 0);
  if (next_ + fresh > int64_t{kNoCell}) throw std::bad_alloc();
  const int64_t chunks = (next_ + fresh + cells - 1) >> shift_;
  const auto words = static_cast<size_t>(chunks * cells / 64);
  if (words > live_.size()) live_.resize(words, 0);
  while (static_cast<int64_t>(chunks_.size()) < chunks) {
    chunks_.push_back(std::unique_ptr<std::byte[]>(new std::byte[static_cast<size_t>(cells * cell_bytes_)]));
  }
}

Cell Arena::Take(int64_t id) {
  Cell cell;
  if (free_ == kNoCell) {
    cell = static_cast<Cell>(next_++);
  } else {
    cell = free_;
    std::memcpy(&free_, At(cell), sizeof free_);
    --free_count_;
  }
  live_[cell >> 6] |= uint64_t{1} << (cell & 63);
  ++size_;
  std::memcpy(At(cell), &id, sizeof id);
  return cell;
}

void Arena::Give(Cell cell) {
  live_[cell >> 6] &= ~(uint64_t{1} << (cell & 63));
  --size_;
  std::memcpy(At(cell), &free_, sizeof free_);
  free_ = cell;
  ++free_count_;
}

int64_t Arena::bytes() const {
  const int64_t cells = int64_t{mask_} + 1;
  return static_cast<int64_t>(chunks_.size()) * cells * cell_bytes_ +
         static_cast<int64_t>(live_.capacity() * 8) +
         static_cast<int64_t>(chunks_.capacity() * sizeof(void*));
}

}  // namespace headrace
