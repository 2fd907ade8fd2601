// IdMap: from int64 ids to the cells that hold them. Any int64 is an id: occupancy is kept beside the cell
// number, no key value means "empty". The key itself is read from the cell; the map keeps 32 bits of its
// hash.
//
// 256 stripes by the top byte of the hash, each a small open-addressing table (linear probing, deletion by
// shifting back) that doubles by itself: growth never stops the whole map for more than 1/256 of its size.
//
// Thread safety: const members may run together; anything else needs the map alone.
// Invariants:
//   1. An id is in the stripe and run of places that its hash says, with no empty place between home and it.
//   2. No place holds the mark of a deleted entry: probes never get longer by deleting.
//   3. A stripe is never fuller than kMaxLoad.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "table/arena.h"
#include "table/hash.h"

namespace headrace {

class IdMap {
 public:
  IdMap() = default;

  // Returns the cell of `id`, or kNoCell. REQUIRES: `arena` holds the cells of all entries. Cost: O(1)
  // expected.
  Cell Find(int64_t id, const Arena& arena) const;

  // Find for many ids: cells[i] = Find(ids[i]). Hashes, then map places, then cells are fetched ahead of use.
  // REQUIRES: cells.size() == ids.size().
  void FindAll(std::span<const int64_t> ids, const Arena& arena, Cell* cells) const;

  // Makes room so that inserting `ids` cannot fail. Throws std::bad_alloc; the content stays as it is.
  void Reserve(std::span<const int64_t> ids);

  // Adds an entry. REQUIRES: `id` is absent and Reserve made room.
  void Insert(int64_t id, Cell cell);

  // Removes the entry of `id`. REQUIRES: it is present. Cannot fail.
  void Erase(int64_t id, const Arena& arena);

  int64_t size() const { return size_; }
  int64_t places() const { return places_; }
  int64_t bytes() const {
    return places_ * static_cast<int64_t>(sizeof(Place)) + static_cast<int64_t>(sizeof *this);
  }

 private:
  struct Place {
    uint32_t tag;  // low 32 bits of the hash; its lowest bits are the home place
    Cell cell;     // kNoCell: empty
  };
  struct Stripe {
    std::unique_ptr<Place[]> places;
    uint32_t mask = 0;
    uint32_t size = 0;
  };
  static constexpr int kStripes = 256;

  const Stripe& StripeOf(uint64_t hash) const { return stripes_[hash >> 56]; }
  static void Grow(Stripe& stripe, uint64_t size, int64_t& places);

  std::array<Stripe, kStripes> stripes_;
  int64_t size_ = 0;
  int64_t places_ = 0;
};

}  // namespace headrace
