// Arena: equally sized cells in chunks, with a free list. A cell is named by a 32-bit number and never moves.
//
// Thread safety: const members may run together; anything else needs the arena alone.
// Invariants:
//   1. The first 8 bytes of a live cell are its id.
//   2. A cell is live or free, never both; freed cells are handed out before new ones are made.
//   3. Cell addresses are stable until the arena is destroyed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace headrace {

using Cell = uint32_t;
inline constexpr Cell kNoCell = 0xFFFFFFFFu;

class Arena {
 public:
  // REQUIRES: cell_bytes >= 8.
  explicit Arena(int64_t cell_bytes);

  std::byte* At(Cell cell) { return chunks_[cell >> shift_].get() + (cell & mask_) * cell_bytes_; }
  const std::byte* At(Cell cell) const {
    return chunks_[cell >> shift_].get() + (cell & mask_) * cell_bytes_;
  }

  int64_t IdOf(Cell cell) const {
    int64_t id;
    std::memcpy(&id, At(cell), sizeof id);
    return id;
  }

  bool IsLive(Cell cell) const { return (live_[cell >> 6] >> (cell & 63)) & 1; }

  // Makes room for `count` more cells, so that as many calls of Take cannot fail. Throws std::bad_alloc.
  void Reserve(int64_t count);

  // Returns a cell whose id is set and whose other bytes are arbitrary. REQUIRES: room from Reserve. Cost:
  // O(1).
  Cell Take(int64_t id);

  // Frees a live cell. Cannot fail. Cost: O(1).
  void Give(Cell cell);

  // Asks the processor to fetch the first bytes of a cell (at most kFetchBytes): its head and what a lookup
  // reads.
  void Fetch(Cell cell) const {
    const std::byte* data = At(cell);
    for (int64_t at = 0; at < fetch_bytes_; at += 64) __builtin_prefetch(data + at);
  }

  int64_t size() const { return size_; }  // live cells
  int64_t end() const { return next_; }   // cells ever handed out are below this number
  int64_t bytes() const;                  // memory held

 private:
  static constexpr int64_t kFetchBytes = 256;

  int64_t cell_bytes_;
  int64_t fetch_bytes_;
  int shift_ = 0;
  uint32_t mask_ = 0;
  int64_t size_ = 0;
  int64_t next_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> chunks_;
  std::vector<uint64_t> live_;  // one bit a cell, so that a scan reads cells in the order they lie in memory
  Cell free_ = kNoCell;         // the free list runs through the first bytes of the freed cells themselves
  int64_t free_count_ = 0;
};

}  // namespace headrace
