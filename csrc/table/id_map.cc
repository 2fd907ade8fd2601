#include "table/id_map.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

namespace headrace {
namespace {

constexpr double kGrowth = 1.125;
constexpr double kShrinkLoad = 0.55;
constexpr uint64_t kMaxLines = uint64_t{1} << 28;

}  // namespace

uint64_t IdMap::Room(uint64_t lines) const {
  return static_cast<uint64_t>(static_cast<double>(Places() * lines) * MaxLoad());
}

// The shortest length of this stripe's own ladder that holds `size` entries. Ladders of different stripes are
// shifted against each other, so that they do not all grow at once.
uint32_t IdMap::LinesFor(int stripe, uint64_t size) const {
  const double least = static_cast<double>(size) / MaxLoad() / Places();
  const double shift = static_cast<double>(stripe) / kStripeCount;
  double step = std::ceil(std::log(std::max(least, 1.0)) / std::log(kGrowth) - shift);
  for (step = std::max(step - 1, 0.0);; ++step) {
    const double lines = std::floor(std::pow(kGrowth, step + shift));
    if (lines > static_cast<double>(kMaxLines)) throw std::bad_alloc();
    if (Room(static_cast<uint64_t>(lines)) >= size) return static_cast<uint32_t>(lines);
  }
}

template <typename Line>
Cell IdMap::FindIn(const Stripe& stripe, uint64_t hash, int64_t id, const Cells& heads) {
  if (stripe.lines == 0) return kNoCell;
  for (uint32_t at = Home(hash, stripe.lines);; at = After(stripe, at)) {
    const Line& line = *stripe.At<Line>(at);
    const uint32_t empty = line.Empty();
    if constexpr (std::is_same_v<Line, WholeLine>) {
      const uint32_t place = line.Likely(hash, empty);
      if (place < Line::kPlaces) return line.cells[place];
    } else {
      for (uint32_t same = EqualBits(line.tags, TagOf(hash)) & ~empty; same != 0; same &= same - 1) {
        const Cell cell = line.cells[std::countr_zero(same)];
        int64_t found;
        std::memcpy(&found, heads.At(cell), sizeof found);
        if (found == id) return cell;
      }
    }
    if (empty != 0) return kNoCell;
  }
}

Cell IdMap::FindHashed(uint64_t hash, int64_t id, const Cells& heads) const {
  const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  return whole_ ? FindIn<WholeLine>(stripe, hash, id, heads) : FindIn<ShortLine>(stripe, hash, id, heads);
}

template <typename Line>
void IdMap::Put(Stripe& stripe, uint64_t hash, Cell cell) {
  for (uint32_t at = Home(hash, stripe.lines);; at = After(stripe, at)) {
    Line& line = *stripe.At<Line>(at);
    const uint32_t empty = line.Empty();
    if (empty == 0) continue;
    line.Put(static_cast<uint32_t>(std::countr_zero(empty)), hash, cell);
    return;
  }
}

template <typename Line>
void IdMap::Rebuild(Stripe& stripe, uint32_t lines) {
  Stripe fresh;
  fresh.memory = Pages(static_cast<int64_t>(lines) * static_cast<int64_t>(sizeof(Line)));
  fresh.lines = lines;
  fresh.size = stripe.size;
  std::memset(fresh.memory.data(), 0xFF, static_cast<size_t>(lines) * sizeof(Line));
  for (uint32_t at = 0; at < stripe.lines; ++at) {  // homes ascend in both: a walk through both, not jumps
    const Line& line = *stripe.At<Line>(at);
    for (uint32_t place = 0; place < Line::kPlaces; ++place) {
      if (line.cells[place] != kNoCell) Put<Line>(fresh, line.HashAt(place), line.cells[place]);
    }
  }
  stripe = std::move(fresh);
}

void IdMap::Reserve(int stripe, uint32_t more) {
  Stripe& one = stripes_[static_cast<size_t>(stripe)];
  const uint64_t size = uint64_t{one.size} + more;
  if (size <= Room(one.lines)) return;
  const uint32_t lines = LinesFor(stripe, size);
  whole_ ? Rebuild<WholeLine>(one, lines) : Rebuild<ShortLine>(one, lines);
}

void IdMap::Insert(uint64_t hash, Cell cell) {
  Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  whole_ ? Put<WholeLine>(stripe, hash, cell) : Put<ShortLine>(stripe, hash, cell);
  ++stripe.size;
}

// Returns line and place of a cell.
template <typename Line>
std::pair<uint32_t, uint32_t> IdMap::Locate(const Stripe& stripe, uint64_t hash, Cell cell) {
  for (uint32_t at = Home(hash, stripe.lines);; at = After(stripe, at)) {
    const uint32_t same = stripe.At<Line>(at)->Holding(cell);
    if (same != 0) return {at, static_cast<uint32_t>(std::countr_zero(same))};
  }
}

void IdMap::Move(uint64_t hash, Cell cell, Cell to) {
  const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  const auto move = [&]<typename Line>(Line*) {
    const auto [line, place] = Locate<Line>(stripe, hash, cell);
    stripe.At<Line>(line)->cells[place] = to;
  };
  whole_ ? move(static_cast<WholeLine*>(nullptr)) : move(static_cast<ShortLine*>(nullptr));
}

void IdMap::Erase(uint64_t hash, Cell cell) {
  Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  whole_ ? Remove<WholeLine>(stripe, hash, cell) : Remove<ShortLine>(stripe, hash, cell);
}

// A hole in a line that was full cuts off entries further on that passed through it: the nearest of them
// moves into the hole, and leaves one.
template <typename Line>
void IdMap::Remove(Stripe& stripe, uint64_t hash, Cell cell) {
  const uint32_t lines = stripe.lines;
  auto [hole, place] = Locate<Line>(stripe, hash, cell);
  bool full = stripe.At<Line>(hole)->Empty() == 0;
  stripe.At<Line>(hole)->cells[place] = kNoCell;
  --stripe.size;
  for (uint32_t at = After(stripe, hole); full && at != hole; at = After(stripe, at)) {
    Line& line = *stripe.At<Line>(at);
    full = line.Empty() == 0;
    for (uint32_t i = 0; i < Line::kPlaces; ++i) {
      if (line.cells[i] == kNoCell) continue;
      const uint32_t home = HomeOf(line.tags[i], lines);
      const uint32_t came = at >= home ? at - home : at + lines - home;
      const uint32_t back = at >= hole ? at - hole : at + lines - hole;
      if (came < back) continue;  // its home lies behind the hole
      stripe.At<Line>(hole)->Put(place, line.HashAt(i), line.cells[i]);
      line.cells[i] = kNoCell;
      hole = at;
      place = i;
      break;
    }
  }
}

void IdMap::Shrink() {
  for (int i = 0; i < kStripeCount; ++i) {
    Stripe& stripe = stripes_[static_cast<size_t>(i)];
    const double places = static_cast<double>(Places()) * stripe.lines;
    if (stripe.lines == 0 || static_cast<double>(stripe.size) > kShrinkLoad * places) continue;
    try {
      if (stripe.size == 0) {
        stripe = Stripe();
      } else if (const uint32_t lines = LinesFor(i, stripe.size); lines < stripe.lines) {
        whole_ ? Rebuild<WholeLine>(stripe, lines) : Rebuild<ShortLine>(stripe, lines);
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
  for (const Stripe& stripe : stripes_) places += int64_t{Places()} * stripe.lines;
  return places;
}

int64_t IdMap::bytes() const {
  auto bytes = static_cast<int64_t>(sizeof *this);
  for (const Stripe& stripe : stripes_) bytes += stripe.memory.bytes();
  return bytes;
}

}  // namespace headrace
