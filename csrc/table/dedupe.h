// Dedupe: distinct ids in the order of their first occurrence. The memory is kept from call to call.
//
// Thread safety: needs the object alone.
// Invariants:
//   1. Place p is the p-th distinct id since Reset.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "table/pages.h"

namespace headrace {

class Dedupe {
 public:
  // Forgets all ids and makes room for `count` distinct ones. REQUIRES: count < 2^31. Throws std::bad_alloc.
  void Reset(size_t count) {
    const size_t size = std::bit_ceil(std::max<size_t>(2 * count, 64));
    if (slots_.size() < size) slots_.resize(size);
    mask_ = size - 1;
    place_bits_ = std::bit_width(count + 1);
    std::memset(slots_.data(), 0xFF, size * sizeof(uint32_t));
  }

  // Fetches the slot of a hash.
  HEADRACE_FETCH void Fetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & mask_], 1); }

  // Returns the place of an id; one that is not among ids[0 .. count) gets place `count`, and *fresh is set.
  // REQUIRES: `ids` holds the distinct ids so far; the caller appends a fresh one. `hash` belongs to the id.
  uint32_t Place(int64_t id, uint64_t hash, const int64_t* ids, size_t count, bool* fresh) {
    const auto tag = static_cast<uint32_t>(hash >> 32) >> place_bits_;
    const uint32_t all = (uint32_t{1} << place_bits_) - 1;
    for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const uint32_t slot = slots_[at];
      if (slot == kEmpty) {
        slots_[at] = tag << place_bits_ | static_cast<uint32_t>(count);
        *fresh = true;
        return static_cast<uint32_t>(count);
      }
      if (slot >> place_bits_ == tag && ids[slot & all] == id) {
        *fresh = false;
        return slot & all;
      }
    }
  }

 private:
  static constexpr uint32_t kEmpty =
      0xFFFFFFFFu;  // no slot: a place is less than count + 1, which is not all ones

  std::vector<uint32_t>
      slots_;  // [a few bits of the hash][place]: half the memory, so that more of it is near
  size_t mask_ = 0;
  int place_bits_ = 0;
};

}  // namespace headrace
