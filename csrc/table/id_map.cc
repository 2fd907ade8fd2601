#include "table/id_map.h"

#include <algorithm>
#include <new>

namespace headrace {
namespace {

constexpr size_t kBlock = 16;  // ids in flight at once: enough to cover the latency of memory
constexpr uint64_t kMinPlaces = 8;
constexpr uint64_t kMaxPlaces = uint64_t{1} << 31;

// At most 7 of 8 places are taken.
constexpr uint64_t Room(uint64_t places) {
  return places - places / 8;
}

}  // namespace

Cell IdMap::Find(int64_t id, const Arena& arena) const {
  const uint64_t hash = Mix64(static_cast<uint64_t>(id));
  const Stripe& stripe = StripeOf(hash);
  if (stripe.size == 0) return kNoCell;
  const auto tag = static_cast<uint32_t>(hash);
  for (uint32_t at = tag & stripe.mask;; at = (at + 1) & stripe.mask) {
    const Place place = stripe.places[at];
    if (place.cell == kNoCell) return kNoCell;
    if (place.tag == tag && arena.IdOf(place.cell) == id) return place.cell;
  }
}

void IdMap::FindAll(std::span<const int64_t> ids, const Arena& arena, Cell* cells) const {
  for (size_t start = 0; start < ids.size(); start += kBlock) {
    const size_t count = std::min(kBlock, ids.size() - start);
    uint64_t hashes[kBlock];
    for (size_t i = 0; i < count; ++i) {
      hashes[i] = Mix64(static_cast<uint64_t>(ids[start + i]));
      const Stripe& stripe = StripeOf(hashes[i]);
      if (stripe.size != 0)
        __builtin_prefetch(&stripe.places[static_cast<uint32_t>(hashes[i]) & stripe.mask]);
    }
    for (size_t i = 0; i < count; ++i) {  // the first place with this tag is nearly always the right one
      const Stripe& stripe = StripeOf(hashes[i]);
      const auto tag = static_cast<uint32_t>(hashes[i]);
      Cell found = kNoCell;
      for (uint32_t at = tag & stripe.mask; stripe.size != 0; at = (at + 1) & stripe.mask) {
        const Place place = stripe.places[at];
        if (place.cell == kNoCell) break;
        if (place.tag == tag) {
          found = place.cell;
          arena.Fetch(found);
          break;
        }
      }
      cells[start + i] = found;
    }
    for (size_t i = 0; i < count; ++i) {
      const int64_t id = ids[start + i];
      Cell& cell = cells[start + i];
      if (cell != kNoCell && arena.IdOf(cell) != id) cell = Find(id, arena);
    }
  }
}

void IdMap::Grow(Stripe& stripe, uint64_t size, int64_t& places) {
  uint64_t wanted = stripe.places ? uint64_t{stripe.mask} + 1 : kMinPlaces;
  while (Room(wanted) < size) wanted *= 2;
  if (wanted > kMaxPlaces) throw std::bad_alloc();
  const uint64_t had = stripe.places ? uint64_t{stripe.mask} + 1 : 0;
  if (wanted == had) return;
  std::unique_ptr<Place[]> grown(new Place[wanted]);
  std::fill(grown.get(), grown.get() + wanted, Place{0, kNoCell});
  const auto mask = static_cast<uint32_t>(wanted - 1);
  for (uint64_t from = 0; from < had; ++from) {
    const Place place = stripe.places[from];
    if (place.cell == kNoCell) continue;
    uint32_t at = place.tag & mask;
    while (grown[at].cell != kNoCell) at = (at + 1) & mask;
    grown[at] = place;
  }
  stripe.places = std::move(grown);
  stripe.mask = mask;
  places += static_cast<int64_t>(wanted - had);
}

void IdMap::Reserve(std::span<const int64_t> ids) {
  std::array<uint32_t, kStripes> more{};
  for (const int64_t id : ids) ++more[Mix64(static_cast<uint64_t>(id)) >> 56];
  for (size_t i = 0; i < more.size(); ++i) {
    if (more[i] != 0) Grow(stripes_[i], uint64_t{stripes_[i].size} + more[i], places_);
  }
}

void IdMap::Insert(int64_t id, Cell cell) {
  const uint64_t hash = Mix64(static_cast<uint64_t>(id));
  Stripe& stripe = stripes_[hash >> 56];
  const auto tag = static_cast<uint32_t>(hash);
  uint32_t at = tag & stripe.mask;
  while (stripe.places[at].cell != kNoCell) at = (at + 1) & stripe.mask;
  stripe.places[at] = Place{tag, cell};
  ++stripe.size;
  ++size_;
}

void IdMap::Erase(int64_t id, const Arena& arena) {
  const uint64_t hash = Mix64(static_cast<uint64_t>(id));
  Stripe& stripe = stripes_[hash >> 56];
  const auto tag = static_cast<uint32_t>(hash);
  uint32_t hole = tag & stripe.mask;
  while (stripe.places[hole].tag != tag || arena.IdOf(stripe.places[hole].cell) != id) {
    hole = (hole + 1) & stripe.mask;
  }
  // Shift back every later entry of the run that may stand in the hole, until the run ends.
  for (uint32_t at = (hole + 1) & stripe.mask; stripe.places[at].cell != kNoCell;
       at = (at + 1) & stripe.mask) {
    const uint32_t home = stripe.places[at].tag & stripe.mask;
    if (((at - home) & stripe.mask) >= ((at - hole) & stripe.mask)) {
      stripe.places[hole] = stripe.places[at];
      hole = at;
    }
  }
  stripe.places[hole].cell = kNoCell;
  --stripe.size;
  --size_;
}

}  // namespace headrace
