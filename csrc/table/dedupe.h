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

  // Returns the place of an id; one that is not among `ids` gets place ids->size() and *fresh is set.
  // REQUIRES: `ids` and `hashes` hold the distinct ids so far; the caller appends a fresh one to both.
  uint32_t Place(int64_t id, uint64_t hash, const std::vector<int64_t>& ids, bool* fresh) {
    const auto tag = static_cast<uint32_t>(hash >> 32);
    for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
      Slot& slot = slots_[at];
      if (slot.place == kEmpty) {
        slot = {tag, static_cast<uint32_t>(ids.size())};
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
