// Cells: an array of equally sized cells, named by 32-bit numbers, in chunks. It grows and shrinks at its
// end. The last chunk starts small and doubles, so that little memory waits for cells that may never come.
//
// Thread safety: const members may run together; anything else needs the array alone.
// Invariants:
//   1. Cells [0, room()) are backed by memory.
//   2. A cell's address is stable until Grow or Shrink.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "table/pages.h"

namespace headrace {

using Cell = uint32_t;
inline constexpr Cell kNoCell = 0xFFFFFFFFu;

class Cells {
 public:
  // Cells of `cell_bytes` each (may be 0), 2^shift of them in a chunk.
  Cells(int64_t cell_bytes, int shift)
      : cell_bytes_(cell_bytes), shift_(shift), mask_((Cell{1} << shift) - 1) {}

  std::byte* At(Cell cell) { return chunks_[cell >> shift_].data() + (cell & mask_) * cell_bytes_; }
  const std::byte* At(Cell cell) const {
    return chunks_[cell >> shift_].data() + (cell & mask_) * cell_bytes_;
  }

  // Makes room() at least `count`. Throws std::bad_alloc; the content stays.
  void Grow(int64_t count);

  // Gives memory back that lies beyond the first `count` cells, as far as whole chunks do.
  void Shrink(int64_t count);

  int64_t room() const { return room_; }
  int64_t bytes() const { return bytes_; }
  int64_t cell_bytes() const { return cell_bytes_; }

 private:
  static constexpr int64_t kFirst = 16;  // cells of the first chunk
  static constexpr int kSteps = 3;       // later ones start with 1/8 of a whole

  int64_t Least(size_t chunk) const;
  void Resize(size_t chunk, int64_t cells);

  int64_t cell_bytes_;
  int shift_;
  Cell mask_;
  int64_t room_ = 0;
  int64_t bytes_ = 0;
  std::vector<Pages> chunks_;
};

}  // namespace headrace
