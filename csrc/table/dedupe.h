// Dedupe: distinct ids in the order of their first occurrence. The memory is kept from call to call.
//
// Thread safety: needs the object alone.
// Invariants:
//   1. Place p is the p-th distinct id since Reset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "table/pages.h"

namespace headrace {

class Dedupe {
 public:
  // Forgets all ids and makes room for `count` distinct ones. Throws std::bad_alloc.
  void Reset(size_t count) {
    size_t size = 64;
    while (size < 2 * count) size *= 2;
    if (slots_.size() < size) slots_.resize(size);
    mask_ = size - 1;
    std::memset(slots_.data(), 0xFF, size * sizeof(Slot));
  }

  // Fetches the slot of a hash.
  HEADRACE_FETCH void Fetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & mask_], 1); }

  // Returns the place of an id; one that is not among ids[0 .. count) gets place `count`, and *fresh is set.
  // REQUIRES: `ids` holds the distinct ids so far; the caller appends a fresh one. `hash` belongs to the id.
  uint32_t Place(int64_t id, uint64_t hash, const int64_t* ids, size_t count, bool* fresh) {
    const auto tag = static_cast<uint32_t>(hash >> 32);
    for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
      Slot& slot = slots_[at];
      if (slot.place == kEmpty) {
        slot = {tag, static_cast<uint32_t>(count)};
        *fresh = true;
        return slot.place;
      }
      if (slot.tag == tag && ids[slot.place] == id) {
        *fresh = false;
        return slot.place;
      }
    }
  }

 private:
  static constexpr uint32_t kEmpty = 0xFFFFFFFFu;
  struct Slot {
    uint32_t tag, place;
  };
  std::vector<Slot> slots_;
  size_t mask_ = 0;
};

}  // namespace headrace
