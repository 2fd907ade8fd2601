// Cells: an array of equally sized cells, named by 32-bit numbers, in chunks. It grows and shrinks at its
// end. The last chunk starts small and doubles, so that little memory waits for cells that may never come.
//
// With a ColdFile, chunks from some number on may lie in it: cells below hot() are in memory, the others in
// the file, and all of them are read and written alike.
//
// Thread safety: const members may run together; anything else needs the array alone.
// Invariants:
//   1. Cells [0, room()) are backed by memory or by the file.
//   2. A cell's address is stable until Grow, Shrink, Cool or Heat.
//   3. Chunks in the file are whole, and come after all chunks in memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cache/cold_file.h"
#include "table/pages.h"

namespace headrace {

using Cell = uint32_t;
inline constexpr Cell kNoCell = 0xFFFFFFFFu;

class Cells {
 public:
  static constexpr int64_t kNoLimit = int64_t{1} << 62;

  // Cells of `cell_bytes` each (may be 0), 2^shift of them in a chunk.
  Cells(int64_t cell_bytes, int shift)
      : cell_bytes_(cell_bytes), shift_(shift), mask_((Cell{1} << shift) - 1) {}

  std::byte* At(Cell cell) { return chunks_[cell >> shift_].data + (cell & mask_) * cell_bytes_; }
  const std::byte* At(Cell cell) const { return chunks_[cell >> shift_].data + (cell & mask_) * cell_bytes_; }

  // Makes room() at least `count`; new chunks from number `limit` on lie in the file. Throws std::bad_alloc;
  // the content stays. REQUIRES: a file, unless the limit is the default.
  void Grow(int64_t count, int64_t limit = kNoLimit);

  // Gives memory back that lies beyond the first `count` cells, as far as whole chunks do.
  void Shrink(int64_t count);

  // --- with a file, which outlives this ---
  void UseFile(ColdFile* file) { file_ = file; }
  // Moves the last chunk that is in memory to the file, and the first that is not into memory. Throws
  // std::bad_alloc; the content stays. REQUIRES: hot_chunks() > 0; hot_chunks() < chunks().
  void Cool();
  void Heat();
  int64_t hot_chunks() const { return hot_chunks_; }
  int64_t chunks() const { return static_cast<int64_t>(chunks_.size()); }
  int shift() const { return shift_; }
  int64_t chunk_bytes() const { return cell_bytes_ << shift_; }
  int64_t cold_bytes() const { return (chunks() - hot_chunks_) * chunk_bytes(); }
  bool IsHot(Cell cell) const { return static_cast<int64_t>(cell >> shift_) < hot_chunks_; }
  int64_t hot() const { return std::min(room_, hot_chunks_ << shift_); }

  int64_t room() const { return room_; }
  int64_t bytes() const { return bytes_; }
  int64_t cell_bytes() const { return cell_bytes_; }

 private:
  static constexpr int64_t kFirst = 16;  // cells of the first chunk
  static constexpr int kSteps = 3;       // later ones start with 1/8 of a whole

  struct Chunk {
    std::byte* data = nullptr;
    Pages memory;  // empty: in the file
  };

  int64_t Least(size_t chunk) const;
  void Resize(size_t chunk, int64_t cells);

  int64_t cell_bytes_;
  int shift_;
  Cell mask_;
  int64_t room_ = 0;
  int64_t bytes_ = 0;
  int64_t hot_chunks_ = 0;
  ColdFile* file_ = nullptr;
  std::vector<Chunk> chunks_;
};

}  // namespace headrace
