// Frozen: a store as it was when a capture began, while writes go on: before a cell changes or dies for the
// first time, its bytes are kept here, until the capture has read the cell's stripe.
//
// Thread safety: Keep may run in several threads for cells of different stripes. Take and Done run while
// nothing writes to the store. Invariants:
//   1. Every cell that was live at the beginning (and, in an increment, is listed) is read once: in place
//   while it has
//      not changed, else from here.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "table/cells.h"

namespace headrace {

class RowStore;

class Frozen {
 public:
  // REQUIRES: the store alone, or only readers beside. Throws std::bad_alloc. `listed`: the cells to capture,
  // or empty with all = true.
  Frozen(const RowStore& store, std::span<const Cell> listed, bool all);

  // Keeps the cell's bytes unless the capture has them or does not want them. Cost: O(1) when it does.
  // REQUIRES: room from Reserve, else it may fail to allocate: then the capture is spoilt (see failed), not
  // the write.
  void Keep(Cell cell, int stripe, const std::byte* head, const std::byte* row) noexcept;

  // Whether a cell is none of the capture's, or its bytes are kept here: else it is read in place.
  bool Done(Cell cell) const {
    return (cell >> 6) >= words_ || (Mask(cell) & done_[cell >> 6].load(std::memory_order_relaxed)) != 0;
  }

  // From now on records get the frequencies that cells had then, not those that ageing has left.
  void UseFrequencies(const std::vector<uint8_t>* by_cell, int32_t at) {
    frequencies_ = by_cell;
    frequency_at_ = at;
  }

  // Gives out the records ([head][row]) kept for a stripe, whose cells are not kept from now on.
  std::vector<std::byte> Take(int stripe);

  // Cells of a stripe that an increment lists.
  const std::vector<Cell>& Listed(int stripe) const { return listed_[static_cast<size_t>(stripe)]; }

  int64_t bytes() const { return kept_.load(std::memory_order_relaxed) + fixed_; }
  bool failed() const { return failed_.load(std::memory_order_relaxed); }

 private:
  static uint64_t Mask(Cell cell) { return uint64_t{1} << (cell & 63); }

  int64_t head_bytes_;
  int64_t row_bytes_;
  int64_t fixed_ = 0;
  size_t words_ = 0;
  int next_ = 0;  // stripes below are captured
  std::unique_ptr<std::atomic<uint64_t>[]> done_;
  std::vector<std::vector<std::byte>> records_;  // by stripe
  std::vector<std::vector<Cell>> listed_;        // by stripe; increments only
  const std::vector<uint8_t>* frequencies_ = nullptr;
  int32_t frequency_at_ = -1;
  std::atomic<int64_t> kept_{0};
  std::atomic<bool> failed_{false};
};

}  // namespace headrace
