// IdMap: from int64 ids to the cells that hold them. Any int64 is an id: occupancy is kept in the cell
// number, no key value means "empty". A place is 8 bytes: 32 bits of the hash and the cell; the id itself
// stands in the cell's head.
//
// 256 stripes by the top byte of the hash. A stripe is an array of lines of 8 places, one cache line each;
// the next 32 bits of the hash, scaled to the number of lines (no power of two is needed), say which line is
// an id's home. An id stands in its home line or, while that is full, in the next one that is not: nearly
// always one line is read, and its eight tags are compared at once. A stripe grows by an eighth at a load of
// 0.82, and the stripes' lengths are staggered, so growing copies one small stripe at a time and the load of
// the whole stays near 0.77 at every size.
//
// Thread safety: const members may run together. Reserve, Insert, Erase and Move for ids of different stripes
// may run together; for ids of one stripe they need that stripe alone. Shrink needs the map alone.
// Invariants:
//   1. From an id's home line to the line it stands in, exclusive, every line is full.
//   2. No place holds the mark of a deleted entry: probes never get longer by deleting.
//   3. A stripe is never fuller than 0.82 of its places.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <array>
#include <bit>
#include <cstdint>
#include <utility>

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

  // Returns the cell of `id`, or kNoCell. REQUIRES: heads hold, first in every cell of the map, its id. Cost:
  // O(1).
  Cell Find(int64_t id, const Cells& heads) const { return FindHashed(Hash(id), id, heads); }
  Cell FindHashed(uint64_t hash, int64_t id, const Cells& heads) const;

  // Prefetches the first place of a hash.
  HEADRACE_FETCH void Fetch(uint64_t hash) const {
    const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
    __builtin_prefetch(stripe.At(Home(hash, stripe.lines)));
  }

  // What the home line alone says of a hash: the cell of the first place with its tag (nearly always the
  // right one; its id is not read), kNoCell, or kFurther: the lines after it, which GuessFurther asks; the
  // first of them is fetched.
  static constexpr Cell kFurther = 0xFFFFFFFEu;
  Cell Guess(uint64_t hash) const {
    const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
    if (stripe.lines == 0) return kNoCell;
    const uint32_t home = Home(hash, stripe.lines);
    const Line& line = *stripe.At(home);
    const uint32_t empty = Equal(line.cells, kNoCell);  // an empty place keeps its last tag
    const uint32_t same = Equal(line.tags, Tag(hash)) & ~empty;
    if (same != 0) return line.cells[std::countr_zero(same)];
    if (empty != 0) return kNoCell;
    __builtin_prefetch(stripe.At(After(stripe, home)));
    return kFurther;
  }

  Cell GuessFurther(uint64_t hash) const {
    const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
    const uint32_t tag = Tag(hash);
    for (uint32_t at = After(stripe, HomeOf(tag, stripe.lines));; at = After(stripe, at)) {
      const Line& line = *stripe.At(at);
      const uint32_t empty = Equal(line.cells, kNoCell);
      const uint32_t same = Equal(line.tags, tag) & ~empty;
      if (same != 0) return line.cells[std::countr_zero(same)];
      if (empty != 0) return kNoCell;
    }
  }

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
    for (uint32_t at = 0; at < one.lines; ++at) {
      for (const Cell cell : one.At(at)->cells) {
        if (cell != kNoCell) visit(cell);
      }
    }
  }

  uint32_t StripeSize(int stripe) const { return stripes_[static_cast<size_t>(stripe)].size; }
  int64_t size() const;
  int64_t places() const;
  int64_t bytes() const;

  static uint64_t Hash(int64_t id) { return Mix64(static_cast<uint64_t>(id)); }

 private:
  static constexpr uint32_t kPlaces = 8;
  struct alignas(64) Line {
    uint32_t tags[kPlaces];
    Cell cells[kPlaces];  // kNoCell: empty
  };
  struct Stripe {
    Pages memory;
    uint32_t lines = 0;
    uint32_t size = 0;
    Line* At(uint32_t line) const { return reinterpret_cast<Line*>(memory.data()) + line; }
  };

  // A bit for each of the eight values that equals `wanted`.
  static uint32_t Equal(const uint32_t* values, uint32_t wanted) {
#if defined(__SSE2__)
    const __m128i all = _mm_set1_epi32(static_cast<int>(wanted));
    const auto* at = reinterpret_cast<const __m128i*>(values);
    const int low = _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(_mm_load_si128(at), all)));
    const int high = _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(_mm_load_si128(at + 1), all)));
    return static_cast<uint32_t>(low | high << 4);
#else
    uint32_t same = 0;
    for (uint32_t i = 0; i < kPlaces; ++i) same |= static_cast<uint32_t>(values[i] == wanted) << i;
    return same;
#endif
  }
  static uint32_t Tag(uint64_t hash) { return static_cast<uint32_t>(hash >> 24); }
  static uint32_t HomeOf(uint32_t tag, uint32_t lines) {
    return static_cast<uint32_t>((uint64_t{tag} * lines) >> 32);
  }
  static uint32_t Home(uint64_t hash, uint32_t lines) { return HomeOf(Tag(hash), lines); }
  static uint32_t After(const Stripe& stripe, uint32_t line) {
    return line + 1 == stripe.lines ? 0 : line + 1;
  }
  static void Put(Stripe& stripe, uint32_t tag, Cell cell);
  static std::pair<uint32_t, uint32_t> Locate(const Stripe& stripe, uint64_t hash, Cell cell);
  void Rebuild(Stripe& stripe, uint32_t lines);

  std::array<Stripe, kStripeCount> stripes_;
};

}  // namespace headrace
