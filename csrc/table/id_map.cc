#include "table/id_map.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

namespace headrace {
namespace {

constexpr double kMaxLoad = 0.82;
constexpr double kGrowth = 1.125;
constexpr double kShrinkLoad = 0.55;
constexpr uint64_t kMaxLines = uint64_t{1} << 28;

uint64_t Room(uint64_t lines) {
  return static_cast<uint64_t>(static_cast<double>(8 * lines) * kMaxLoad);
}

// The shortest length of this stripe's own ladder that holds `size` entries. Ladders of different stripes are
// shifted against each other, so that they do not all grow at once.
uint32_t LinesFor(int stripe, uint64_t size) {
  const double least = static_cast<double>(size) / kMaxLoad / 8;
  const double shift = static_cast<double>(stripe) / IdMap::kStripeCount;
  double step = std::ceil(std::log(std::max(least, 1.0)) / std::log(kGrowth) - shift);
  for (step = std::max(step - 1, 0.0);; ++step) {
    const double lines = std::floor(std::pow(kGrowth, step + shift));
    if (lines > static_cast<double>(kMaxLines)) throw std::bad_alloc();
    if (Room(static_cast<uint64_t>(lines)) >= size) return static_cast<uint32_t>(lines);
  }
}

}  // namespace

Cell IdMap::FindHashed(uint64_t hash, int64_t id, const Cells& heads) const {
  const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  if (stripe.lines == 0) return kNoCell;
  const uint32_t tag = Tag(hash);
  for (uint32_t at = HomeOf(tag, stripe.lines);; at = After(stripe, at)) {
    const Line& line = *stripe.At(at);
    const uint32_t empty = Equal(line.cells, kNoCell);
    for (uint32_t same = Equal(line.tags, tag) & ~empty; same != 0; same &= same - 1) {
      const Cell cell = line.cells[std::countr_zero(same)];
      int64_t found;
      std::memcpy(&found, heads.At(cell), sizeof found);
      if (found == id) return cell;
    }
    if (empty != 0) return kNoCell;
  }
}

void IdMap::Put(Stripe& stripe, uint32_t tag, Cell cell) {
  for (uint32_t at = HomeOf(tag, stripe.lines);; at = After(stripe, at)) {
    Line& line = *stripe.At(at);
    const uint32_t empty = Equal(line.cells, kNoCell);
    if (empty == 0) continue;
    const int place = std::countr_zero(empty);
    line.tags[place] = tag;
    line.cells[place] = cell;
    return;
  }
}

void IdMap::Rebuild(Stripe& stripe, uint32_t lines) {
  Stripe fresh;
  fresh.memory = Pages(static_cast<int64_t>(lines) * static_cast<int64_t>(sizeof(Line)));
  fresh.lines = lines;
  fresh.size = stripe.size;
  std::memset(fresh.memory.data(), 0xFF, static_cast<size_t>(lines) * sizeof(Line));
  for (uint32_t at = 0; at < stripe.lines; ++at) {  // homes ascend in both: a walk through both, not jumps
    const Line& line = *stripe.At(at);
    for (uint32_t place = 0; place < kPlaces; ++place) {
      if (line.cells[place] != kNoCell) Put(fresh, line.tags[place], line.cells[place]);
    }
  }
  stripe = std::move(fresh);
}

void IdMap::Reserve(int stripe, uint32_t more) {
  Stripe& one = stripes_[static_cast<size_t>(stripe)];
  const uint64_t size = uint64_t{one.size} + more;
  if (size > Room(one.lines)) Rebuild(one, LinesFor(stripe, size));
}

void IdMap::Insert(uint64_t hash, Cell cell) {
  Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  Put(stripe, Tag(hash), cell);
  ++stripe.size;
}

// Returns line and place of a cell.
std::pair<uint32_t, uint32_t> IdMap::Locate(const Stripe& stripe, uint64_t hash, Cell cell) {
  for (uint32_t at = Home(hash, stripe.lines);; at = After(stripe, at)) {
    const uint32_t same = Equal(stripe.At(at)->cells, cell);
    if (same != 0) return {at, static_cast<uint32_t>(std::countr_zero(same))};
  }
}

void IdMap::Move(uint64_t hash, Cell cell, Cell to) {
  const Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  const auto [line, place] = Locate(stripe, hash, cell);
  stripe.At(line)->cells[place] = to;
}

// A hole in a line that was full cuts off entries further on that passed through it: the nearest of them
// moves into the hole, and leaves one.
void IdMap::Erase(uint64_t hash, Cell cell) {
  Stripe& stripe = stripes_[static_cast<size_t>(hash >> 56)];
  const uint32_t lines = stripe.lines;
  auto [hole, place] = Locate(stripe, hash, cell);
  bool full = Equal(stripe.At(hole)->cells, kNoCell) == 0;
  stripe.At(hole)->cells[place] = kNoCell;
  --stripe.size;
  for (uint32_t at = After(stripe, hole); full && at != hole; at = After(stripe, at)) {
    Line& line = *stripe.At(at);
    full = Equal(line.cells, kNoCell) == 0;
    for (uint32_t i = 0; i < kPlaces; ++i) {
      if (line.cells[i] == kNoCell) continue;
      const uint32_t home = HomeOf(line.tags[i], lines);
      const uint32_t came = at >= home ? at - home : at + lines - home;
      const uint32_t back = at >= hole ? at - hole : at + lines - hole;
      if (came < back) continue;  // its home lies behind the hole
      Line& to = *stripe.At(hole);
      to.tags[place] = line.tags[i];
      to.cells[place] = line.cells[i];
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
    if (stripe.lines == 0 || static_cast<double>(stripe.size) > kShrinkLoad * 8 * stripe.lines) continue;
    try {
      if (stripe.size == 0) {
        stripe = Stripe();
      } else if (const uint32_t lines = LinesFor(i, stripe.size); lines < stripe.lines) {
        Rebuild(stripe, lines);
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
  for (const Stripe& stripe : stripes_) places += int64_t{kPlaces} * stripe.lines;
  return places;
}

int64_t IdMap::bytes() const {
  auto bytes = static_cast<int64_t>(sizeof *this);
  for (const Stripe& stripe : stripes_) bytes += stripe.memory.bytes();
  return bytes;
}

}  // namespace headrace
