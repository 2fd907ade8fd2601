#include "table/id_map.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

namespace headrace {
namespace {

constexpr double kMaxLoad = 0.85;
constexpr double kGrowth = 1.125;
constexpr double kShortest = 4.0;
constexpr double kShrinkLoad = 0.55;
constexpr uint64_t kMaxLength = uint64_t{1} << 31;

uint64_t Room(uint64_t length) {
  return static_cast<uint64_t>(static_cast<double>(length) * kMaxLoad);
}

// The shortest length of this stripe's own ladder that holds `size` entries. Ladders of different stripes are shifted
// against each other, so that they do not all grow at once.
uint32_t LengthFor(int stripe, uint64_t size) {
  const double least = static_cast<double>(size) / kMaxLoad;
  const double shift = static_cast<double>(stripe) / IdMap::kStripeCount;
  double step = std::ceil(std::log(std::max(least / kShortest, 1.0)) / std::log(kGrowth) - shift);
  for (;; ++step) {
    const double length = std::ceil(kShortest * std::pow(kGrowth, step + shift));
    if (length > static_cast<double>(kMaxLength)) throw std::bad_alloc();
    if (length >= 1.0 && Room(static_cast<uint64_t>(length)) >= size) return static_cast<uint32_t>(length);
  }
}

}  // namespace

Cell IdMap::FindHashed(uint64_t hash, int64_t id, const Cells& heads) const {
  const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  if (stripe.size == 0) return kNoCell;
  const uint32_t tag = Tag(hash), length = stripe.length;
  uint32_t at = HomeOf(tag, length);
  for (uint32_t gone = 0;; ++gone) {
    const Place place = *stripe.At(at);
    if (place.cell == kNoCell) return kNoCell;
    if (place.tag == tag) {
      int64_t found;
      std::memcpy(&found, heads.At(place.cell), sizeof found);
      if (found == id) return place.cell;
    } else {
      const uint32_t home = HomeOf(place.tag, length);
      const uint32_t far = at >= home ? at - home : at + length - home;
      if (far < gone) return kNoCell;
    }
    at = at + 1 == length ? 0 : at + 1;
  }
}

Cell IdMap::Guess(uint64_t hash) const {
  const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  if (stripe.size == 0) return kNoCell;
  const uint32_t tag = Tag(hash), length = stripe.length;
  uint32_t at = HomeOf(tag, length);
  for (uint32_t gone = 0;; ++gone) {
    const Place place = *stripe.At(at);
    if (place.tag == tag || place.cell == kNoCell) return place.cell;
    const uint32_t home = HomeOf(place.tag, length);
    const uint32_t far = at >= home ? at - home : at + length - home;
    if (far < gone) return kNoCell;
    at = at + 1 == length ? 0 : at + 1;
  }
}

// Robin Hood: an entry that is nearer to its home makes way for one that is further.
void IdMap::Put(Stripe& stripe, Place place) {
  const uint32_t length = stripe.length;
  uint32_t at = HomeOf(place.tag, length);
  for (uint32_t gone = 0;; ++gone) {
    Place& here = *stripe.At(at);
    if (here.cell == kNoCell) {
      here = place;
      return;
    }
    const uint32_t home = HomeOf(here.tag, length);
    const uint32_t far = at >= home ? at - home : at + length - home;
    if (far < gone) {
      std::swap(here, place);
      gone = far;
    }
    at = at + 1 == length ? 0 : at + 1;
  }
}

void IdMap::Rebuild(Stripe& stripe, uint32_t length) {
  Stripe fresh;
  fresh.memory = Pages(static_cast<int64_t>(length) * static_cast<int64_t>(sizeof(Place)));
  fresh.length = length;
  fresh.size = stripe.size;
  std::memset(fresh.memory.data(), 0xFF, static_cast<size_t>(length) * sizeof(Place));
  for (uint32_t at = 0; at < stripe.length; ++at) {  // homes ascend in both: a walk through both, not jumps
    const Place place = *stripe.At(at);
    if (place.cell != kNoCell) Put(fresh, place);
  }
  stripe = std::move(fresh);
}

void IdMap::Reserve(int stripe, uint32_t more) {
  Stripe& one = stripes_[static_cast<size_t>(stripe)];
  const uint64_t size = uint64_t{one.size} + more;
  if (size > Room(one.length)) Rebuild(one, LengthFor(stripe, size));
}

void IdMap::Insert(uint64_t hash, Cell cell) {
  Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  Put(stripe, Place{Tag(hash), cell});
  ++stripe.size;
}

uint32_t IdMap::Locate(const Stripe& stripe, uint64_t hash, Cell cell) {
  uint32_t at = Home(hash, stripe.length);
  while (stripe.At(at)->cell != cell) at = at + 1 == stripe.length ? 0 : at + 1;
  return at;
}

void IdMap::Move(uint64_t hash, Cell cell, Cell to) {
  const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  stripe.At(Locate(stripe, hash, cell))->cell = to;
}

void IdMap::Erase(uint64_t hash, Cell cell) {
  Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  const uint32_t length = stripe.length;
  uint32_t hole = Locate(stripe, hash, cell);
  for (;;) {  // shift the rest of the run back by one, until an entry that is at home
    const uint32_t at = hole + 1 == length ? 0 : hole + 1;
    const Place place = *stripe.At(at);
    if (place.cell == kNoCell || HomeOf(place.tag, length) == at || at == hole) break;
    *stripe.At(hole) = place;
    hole = at;
  }
  *stripe.At(hole) = Place{0xFFFFFFFFu, kNoCell};
  --stripe.size;
}

void IdMap::Shrink() {
  for (int i = 0; i < kStripeCount; ++i) {
    Stripe& stripe = stripes_[static_cast<size_t>(i)];
    if (stripe.length == 0 || static_cast<double>(stripe.size) > kShrinkLoad * stripe.length) continue;
    try {
      if (stripe.size == 0) {
        stripe = Stripe();
      } else {
        Rebuild(stripe, LengthFor(i, stripe.size));
      }
    } catch (const std::bad_alloc&) {
      return;
    }
  }
}

int64_t IdMap::size() const {
  int64_t size = 0;
  for (const Stripe& stripe : stripes_) size += stripe.size;
  return size;
}

int64_t IdMap::places() const {
  int64_t places = 0;
  for (const Stripe& stripe : stripes_) places += stripe.length;
  return places;
}

int64_t IdMap::bytes() const {
  auto bytes = static_cast<int64_t>(sizeof *this);
  for (const Stripe& stripe : stripes_) bytes += stripe.memory.bytes();
  return bytes;
}

}  // namespace headrace
