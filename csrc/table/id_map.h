// IdMap: from int64 ids to the cells that hold them. Any int64 is an id: occupancy is kept in the cell number, no key
// value means "empty". A place is 8 bytes: 32 bits of the hash and the cell; the id itself stands in the cell's head.
//
// 256 stripes by the top byte of the hash; each is a Robin Hood table whose home place is the next 32 bits scaled to
// its length (no power of two is needed). A stripe grows by an eighth at a load of 0.85, and the stripes' lengths are
// staggered, so growing copies one small stripe at a time and the load of the whole stays near 0.8 at every size.
//
// Thread safety: const members may run together. Reserve, Insert, Erase and Move for ids of different stripes may run
// together; for ids of one stripe they need that stripe alone. Shrink needs the map alone.
// Invariants:
//   1. Along a run, distances from home never jump by more than one up (Robin Hood): a probe that has gone further
//      than the entry it meets may stop.
//   2. No place holds the mark of a deleted entry: probes never get longer by deleting.
//   3. A stripe is never fuller than 0.85 of its length.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "table/cells.h"
#include "table/hash.h"
#include "table/pages.h"

namespace headrace {

inline int StripeOf(uint64_t hash) {
  return static_cast<int>(hash >> 56);
}

class IdMap {
 public:
  static constexpr int kStripeCount = 256;

  IdMap() = default;

  // Returns the cell of `id`, or kNoCell. REQUIRES: heads hold, first in every cell of the map, its id. Cost: O(1).
  Cell Find(int64_t id, const Cells& heads) const { return FindHashed(Hash(id), id, heads); }
  Cell FindHashed(uint64_t hash, int64_t id, const Cells& heads) const;

  // Prefetches the first place of a hash.
  void Fetch(uint64_t hash) const {
    const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
    if (stripe.length != 0) __builtin_prefetch(stripe.At(Home(hash, stripe.length)));
  }

  // Returns the first cell whose tag is that of the hash (nearly always the right one), or kNoCell. Its id is not read.
  Cell Guess(uint64_t hash) const;

  // Makes room for `more` entries in a stripe. Throws std::bad_alloc; the content stays as it is.
  void Reserve(int stripe, uint32_t more);

  // Adds an entry. REQUIRES: `id` is absent and Reserve made room.
  void Insert(uint64_t hash, Cell cell);

  // Removes, or gives another cell to, the entry of `hash` that has cell `cell`. REQUIRES: it is present.
  void Erase(uint64_t hash, Cell cell);
  void Move(uint64_t hash, Cell cell, Cell to);

  // Shortens stripes that are nearly empty. Cannot fail (a stripe whose shorter copy cannot be had stays).
  void Shrink();

  // Calls visit(cell) for every entry of a stripe, in the order of the hash but for wrapped places.
  template <typename Visit>
  void ForEach(int stripe, Visit visit) const {
    const Stripe& one = stripes_[static_cast<size_t>(stripe)];
    for (uint32_t at = 0; at < one.length; ++at) {
      const Place place = *one.At(at);
      if (place.cell != kNoCell) visit(place.cell);
    }
  }

  uint32_t StripeSize(int stripe) const { return stripes_[static_cast<size_t>(stripe)].size; }
  int64_t size() const;
  int64_t places() const;
  int64_t bytes() const;

  static uint64_t Hash(int64_t id) { return Mix64(static_cast<uint64_t>(id)); }

 private:
  struct Place {
    uint32_t tag;
    Cell cell;  // kNoCell: empty
  };
  struct Stripe {
    Pages memory;
    uint32_t length = 0;
    uint32_t size = 0;
    Place* At(uint32_t place) const { return reinterpret_cast<Place*>(memory.data()) + place; }
  };

  static uint32_t Tag(uint64_t hash) { return static_cast<uint32_t>(hash >> 24); }
  static uint32_t HomeOf(uint32_t tag, uint32_t length) {
    return static_cast<uint32_t>((uint64_t{tag} * length) >> 32);
  }
  static uint32_t Home(uint64_t hash, uint32_t length) { return HomeOf(Tag(hash), length); }
  static void Put(Stripe& stripe, Place place);
  static uint32_t Locate(const Stripe& stripe, uint64_t hash, Cell cell);
  void Rebuild(Stripe& stripe, uint32_t length);

  std::array<Stripe, kStripeCount> stripes_;
};

}  // namespace headrace
