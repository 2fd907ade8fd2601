// IdMap: from int64 ids to the cells that hold them. Any int64 is an id: occupancy is kept in the cell
// number, no key value means "empty".
//
// 256 stripes by the top byte of the hash. A stripe is an array of lines, one cache line each; the next 32
// bits of the hash, the tag, scaled to the number of lines (no power of two is needed), say which line is an
// id's home. An id stands in its home line or, while that is full, in the next one that is not: nearly always
// one line is read, and all its tags are compared at once. A stripe grows by an eighth when it is full, and
// the stripes' lengths are staggered, so growing copies one small stripe at a time and the load of the whole
// stays nearly the same at every size.
//
// There are two kinds of lines. A *short* line has 8 places of 8 bytes, the tag and the cell; the id itself
// stands in the cell's head, which is read to be sure. A *whole* line has 5 places of 12 bytes: they hold the
// last 24 bits of the hash too, and the hash is a bijection of the id. Finding an id then takes one place in
// memory less, and the cell needs no head; but an id cannot be told from its cell.
//
// Thread safety: const members may run together. Reserve, Insert, Erase and Move for ids of different stripes
// may run together; for ids of one stripe they need that stripe alone. Shrink needs the map alone.
// Invariants:
//   1. From an id's home line to the line it stands in, exclusive, every line is full.
//   2. No place holds the mark of a deleted entry: probes never get longer by deleting.
//   3. A stripe is never fuller than kMaxLoad of its places.
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

// A bit for each of eight values that equals `wanted`.
inline uint32_t EqualBits(const uint32_t* values, uint32_t wanted) {
#if defined(__SSE2__)
  const __m128i all = _mm_set1_epi32(static_cast<int>(wanted));
  const auto* at = reinterpret_cast<const __m128i*>(values);
  const int low = _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(_mm_loadu_si128(at), all)));
  const int high = _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(_mm_loadu_si128(at + 1), all)));
  return static_cast<uint32_t>(low | high << 4);
#else
  uint32_t same = 0;
  for (uint32_t i = 0; i < 8; ++i) same |= static_cast<uint32_t>(values[i] == wanted) << i;
  return same;
#endif
}

inline uint32_t TagOf(uint64_t hash) {
  return static_cast<uint32_t>(hash >> 24);
}

// A line whose places hold a tag and a cell (kNoCell: empty; an empty place keeps its last tag).
struct alignas(64) ShortLine {
  static constexpr uint32_t kPlaces = 8;
  static constexpr double kMaxLoad = 0.83;
  uint32_t tags[kPlaces];
  Cell cells[kPlaces];

  uint32_t Holding(Cell cell) const { return EqualBits(cells, cell); }
  uint32_t Empty() const { return Holding(kNoCell); }
  // The first place that may hold a hash, or kPlaces.
  uint32_t Likely(uint64_t hash, uint32_t empty) const {
    const uint32_t same = EqualBits(tags, TagOf(hash)) & ~empty;
    return same != 0 ? static_cast<uint32_t>(std::countr_zero(same)) : kPlaces;
  }
  void Put(uint32_t place, uint64_t hash, Cell cell) {
    tags[place] = TagOf(hash);
    cells[place] = cell;
  }
  // The hash at a place, but for its first 8 bits; its last 24 are 0.
  uint64_t HashAt(uint32_t place) const { return uint64_t{tags[place]} << 24; }
};

// A line whose places hold the rest of the hash too.
struct alignas(64) WholeLine {
  static constexpr uint32_t kPlaces = 5;
  static constexpr double kMaxLoad = 0.73;  // five places overflow sooner than eight
  static constexpr uint32_t kAll = (1u << kPlaces) - 1;
  uint32_t tags[kPlaces];
  Cell cells[kPlaces];
  uint32_t rests[kPlaces];
  uint32_t unused;

  uint32_t Holding(Cell cell) const { return EqualBits(cells, cell) & kAll; }
  uint32_t Empty() const { return Holding(kNoCell); }
  // The place that holds a hash, or kPlaces.
  uint32_t Likely(uint64_t hash, uint32_t empty) const {
    for (uint32_t same = EqualBits(tags, TagOf(hash)) & kAll & ~empty; same != 0; same &= same - 1) {
      const auto place = static_cast<uint32_t>(std::countr_zero(same));
      if (rests[place] == (static_cast<uint32_t>(hash) & 0xFFFFFFu)) return place;
    }
    return kPlaces;
  }
  void Put(uint32_t place, uint64_t hash, Cell cell) {
    tags[place] = TagOf(hash);
    cells[place] = cell;
    rests[place] = static_cast<uint32_t>(hash) & 0xFFFFFFu;
  }
  uint64_t HashAt(uint32_t place) const { return uint64_t{tags[place]} << 24 | rests[place]; }
};

class IdMap {
 public:
  static constexpr int kStripeCount = 256;

  // A map of short lines, or of whole ones.
  explicit IdMap(bool whole = false) : whole_(whole) {}

  bool whole() const { return whole_; }

  // Returns the cell of `id`, or kNoCell. REQUIRES: unless lines are whole, heads hold, first in every cell
  // of the map, its id. Cost: O(1).
  Cell Find(int64_t id, const Cells& heads) const { return FindHashed(Hash(id), id, heads); }
  Cell FindHashed(uint64_t hash, int64_t id, const Cells& heads) const;

  // Prefetches the home line of a hash.
  HEADRACE_FETCH void Fetch(uint64_t hash) const {
    const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
    __builtin_prefetch(stripe.memory.data() + uint64_t{Home(hash, stripe.lines)} * sizeof(ShortLine));
  }

  // What the home line alone says of a hash: its cell (of short lines: the cell of the first place with its
  // tag, nearly always the right one; its id is not read), kNoCell, or kFurther: the lines after it, which
  // GuessFurther asks; the first of them is fetched. REQUIRES: Line is the kind of this map.
  static constexpr Cell kFurther = 0xFFFFFFFEu;
  template <typename Line>
  Cell Guess(uint64_t hash) const {
    const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
    if (stripe.lines == 0) return kNoCell;
    const uint32_t home = Home(hash, stripe.lines);
    const Line& line = *stripe.At<Line>(home);
    const uint32_t empty = line.Empty(), place = line.Likely(hash, empty);
    if (place < Line::kPlaces) return line.cells[place];
    if (empty != 0) return kNoCell;
    __builtin_prefetch(stripe.At<Line>(After(stripe, home)));
    return kFurther;
  }

  template <typename Line>
  Cell GuessFurther(uint64_t hash) const {
    const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
    for (uint32_t at = After(stripe, Home(hash, stripe.lines));; at = After(stripe, at)) {
      const Line& line = *stripe.At<Line>(at);
      const uint32_t empty = line.Empty(), place = line.Likely(hash, empty);
      if (place < Line::kPlaces) return line.cells[place];
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

  // Calls visit(cell, hash) for every entry of a stripe, in the order of the hash but for displaced ones. Of
  // short lines the last 24 bits of the hash are 0. `cell` may be changed through a reference.
  template <typename Visit>
  void ForEach(int stripe, Visit visit) const {
    whole_ ? Walk<WholeLine>(stripe, visit) : Walk<ShortLine>(stripe, visit);
  }

  uint32_t StripeSize(int stripe) const { return stripes_[static_cast<size_t>(stripe)].size; }
  int64_t size() const;
  int64_t places() const;
  int64_t bytes() const;

  static uint64_t Hash(int64_t id) { return Mix64(static_cast<uint64_t>(id)); }

 private:
  struct Stripe {
    Pages memory;
    uint32_t lines = 0;
    uint32_t size = 0;
    template <typename Line>
    Line* At(uint32_t line) const {
      return reinterpret_cast<Line*>(memory.data()) + line;
    }
  };

  static uint32_t HomeOf(uint32_t tag, uint32_t lines) {
    return static_cast<uint32_t>((uint64_t{tag} * lines) >> 32);
  }
  static uint32_t Home(uint64_t hash, uint32_t lines) { return HomeOf(TagOf(hash), lines); }
  static uint32_t After(const Stripe& stripe, uint32_t line) {
    return line + 1 == stripe.lines ? 0 : line + 1;
  }
  template <typename Line, typename Visit>
  void Walk(int stripe, Visit visit) const {
    const Stripe& one = stripes_[static_cast<size_t>(stripe)];
    for (uint32_t at = 0; at < one.lines; ++at) {
      Line& line = *one.At<Line>(at);
      for (uint32_t place = 0; place < Line::kPlaces; ++place) {
        if (line.cells[place] != kNoCell)
          visit(line.cells[place], static_cast<uint64_t>(stripe) << 56 | line.HashAt(place));
      }
    }
  }
  template <typename Line>
  static Cell FindIn(const Stripe& stripe, uint64_t hash, int64_t id, const Cells& heads);
  template <typename Line>
  static void Put(Stripe& stripe, uint64_t hash, Cell cell);
  template <typename Line>
  static std::pair<uint32_t, uint32_t> Locate(const Stripe& stripe, uint64_t hash, Cell cell);
  template <typename Line>
  static void Remove(Stripe& stripe, uint64_t hash, Cell cell);
  template <typename Line>
  static void Rebuild(Stripe& stripe, uint32_t lines);
  double MaxLoad() const { return whole_ ? WholeLine::kMaxLoad : ShortLine::kMaxLoad; }
  uint32_t Places() const { return whole_ ? WholeLine::kPlaces : ShortLine::kPlaces; }
  uint64_t Room(uint64_t lines) const;
  uint32_t LinesFor(int stripe, uint64_t size) const;

  bool whole_;
  std::array<Stripe, kStripeCount> stripes_;
};

static_assert(sizeof(ShortLine) == 64 && sizeof(WholeLine) == 64);

}  // namespace headrace
