// The map against std::unordered_map; the ids themselves stand in cells, as the map wants them.
#include "table/id_map.h"

#include <cstring>
#include <limits>
#include <random>
#include <unordered_map>
#include <vector>

#include "table/check.h"

namespace headrace {
namespace {

constexpr int64_t kLow = std::numeric_limits<int64_t>::min();
constexpr int64_t kHigh = std::numeric_limits<int64_t>::max();

uint64_t Unshift(uint64_t value, int shift) {
  uint64_t result = value;
  for (int known = shift; known < 64; known += shift) result = value ^ (result >> shift);
  return result;
}

// The id with this hash.
int64_t IdWith(uint64_t hash) {
  hash = Unshift(hash, 31) * 0x319642B2D24D8EC3ULL;
  hash = Unshift(hash, 27) * 0x96DE1B173F119089ULL;
  return static_cast<int64_t>(Unshift(hash, 30));
}

// A map, the cells that its entries live in, and what should be in it.
class Pair {
 public:
  explicit Pair(bool whole) : map_(whole) {}

  void Insert(int64_t id) {
    const uint64_t hash = IdMap::Hash(id);
    const Cell cell = Take();
    map_.Reserve(StripeOf(hash), 1);
    std::memcpy(heads_.At(cell), &id, sizeof id);
    map_.Insert(hash, cell);
    oracle_[id] = cell;
  }

  void Erase(int64_t id) {
    const auto found = oracle_.find(id);
    map_.Erase(IdMap::Hash(id), found->second);
    free_.push_back(found->second);
    oracle_.erase(found);
  }

  void Move(int64_t id) {
    Cell& cell = oracle_.at(id);
    const Cell to = Take();
    std::memcpy(heads_.At(to), heads_.At(cell), 8);
    map_.Move(IdMap::Hash(id), cell, to);
    free_.push_back(cell);
    cell = to;
  }

  bool Has(int64_t id) const { return oracle_.count(id) != 0; }
  Cell Wanted(int64_t id) const { return Has(id) ? oracle_.at(id) : kNoCell; }

  void CheckId(int64_t id) const {
    const uint64_t hash = IdMap::Hash(id);
    const Cell wanted = Wanted(id);
    const Cell guess = map_.whole() ? map_.Guess<WholeLine>(hash) : map_.Guess<ShortLine>(hash);
    map_.Fetch(hash);
    CHECK(map_.Find(id, heads_) == wanted && map_.FindHashed(hash, id, heads_) == wanted);
    CHECK(wanted == kNoCell || guess != kNoCell);
    if (map_.whole() && guess != IdMap::kFurther) CHECK(guess == wanted);
  }

  void CheckAll() const {
    for (const auto& [id, cell] : oracle_) CheckId(id);
    CHECK(map_.size() == static_cast<int64_t>(oracle_.size()));
    int64_t visited = 0;
    for (int stripe = 0; stripe < IdMap::kStripeCount; ++stripe) {
      uint32_t size = 0;
      map_.ForEach(stripe, [&](Cell cell, uint64_t hash) {
        int64_t id;
        std::memcpy(&id, heads_.At(cell), sizeof id);
        CHECK(StripeOf(IdMap::Hash(id)) == stripe && Wanted(id) == cell);
        CHECK(hash == (map_.whole() ? IdMap::Hash(id) : IdMap::Hash(id) >> 24 << 24));
        if (map_.whole()) CHECK(static_cast<int64_t>(Unmix64(hash)) == id);
        ++size;
      });
      CHECK(size == map_.StripeSize(stripe));
      visited += size;
    }
    CHECK(visited == map_.size());
    CHECK(static_cast<double>(map_.size()) <= 0.85 * static_cast<double>(map_.places()));
  }

  IdMap& map() { return map_; }
  int64_t size() const { return static_cast<int64_t>(oracle_.size()); }

 private:
  Cell Take() {
    if (free_.empty()) {
      heads_.Grow(next_ + 1);
      return static_cast<Cell>(next_++);
    }
    const Cell cell = free_.back();
    free_.pop_back();
    return cell;
  }

  Cells heads_{8, 10};
  IdMap map_;
  std::unordered_map<int64_t, Cell> oracle_;
  std::vector<Cell> free_;
  int64_t next_ = 0;
};

void AnEmptyMapFindsNothing(bool whole) {
  const Pair pair(whole);
  for (const int64_t id : {int64_t{0}, int64_t{-1}, kLow, kHigh}) pair.CheckId(id);
  pair.CheckAll();
}

void EveryIdIsAnId(bool whole) {
  Pair pair(whole);
  const std::vector<int64_t> ids{
      0, -1, kLow, kHigh, IdWith(0), IdWith(~uint64_t{0}), IdWith(uint64_t{0xFF} << 56)};
  for (const int64_t id : ids) {
    if (!pair.Has(id)) pair.Insert(id);
  }
  for (const int64_t id : ids) pair.CheckId(id);
  pair.CheckId(1);
  pair.CheckAll();
}

// Few distinct ids, so that lines are filled and broken up again and again.
void AgreesWithAnOracle(bool whole, uint64_t range, int steps, uint32_t seed) {
  Pair pair(whole);
  std::mt19937_64 random(seed);
  const auto draw = [&] { return static_cast<int64_t>(random() % range) - static_cast<int64_t>(range / 2); };
  for (int step = 0; step < steps; ++step) {
    const int64_t id = draw();
    if (!pair.Has(id)) {
      pair.Insert(id);
    } else if (random() % 8 == 0) {
      pair.Move(id);
    } else {
      pair.Erase(id);
    }
    pair.CheckId(id);
    if (step % (steps / 4) == steps / 8) pair.map().Shrink();
  }
  pair.CheckAll();
  for (int64_t id = -static_cast<int64_t>(range / 2) - 3; id < static_cast<int64_t>(range / 2) + 3; ++id)
    pair.CheckId(id);
}

void AgreesOverTheFullRange(bool whole) {
  Pair pair(whole);
  std::mt19937_64 random(3);
  std::vector<int64_t> ids;
  for (int i = 0; i < 20'000; ++i) ids.push_back(static_cast<int64_t>(random()));
  for (const int64_t id : ids) pair.Insert(id);
  for (size_t i = 0; i < ids.size(); i += 3) pair.Erase(ids[i]);
  for (const int64_t id : ids) pair.CheckId(id);
  pair.CheckAll();
}

// Hashes of one stripe and one home, or of homes so close that their runs meet and wrap around the end.
void AgreesInOneCrowdedStripe(bool whole, uint64_t homes, uint64_t spread, uint32_t seed) {
  Pair pair(whole);
  std::mt19937_64 random(seed);
  for (int step = 0; step < 6000; ++step) {
    const uint64_t home = (random() % homes) * spread - homes / 2 * spread;  // around 0, so at both ends
    const uint64_t tag = static_cast<uint32_t>(home);
    const int64_t id = IdWith(uint64_t{0xA7} << 56 | tag << 24 | random() % 12);
    if (pair.Has(id)) {
      pair.Erase(id);
    } else {
      pair.Insert(id);
    }
    pair.CheckId(id);
    if (step % 1000 == 0) pair.CheckAll();
  }
  pair.CheckAll();
}

// Stripe and tag are the same: only the id in the cell tells these apart.
void TellsApartIdsWithEqualTags(bool whole) {
  for (const uint64_t tag : {uint64_t{0}, uint64_t{0xABCD}, uint64_t{0xFFFFFFFF}}) {
    Pair pair(whole);
    std::vector<int64_t> ids;
    for (uint64_t k = 0; k < 60; ++k) ids.push_back(IdWith(uint64_t{0x5C} << 56 | tag << 24 | k));
    for (const int64_t id : ids) CHECK(IdMap::Hash(id) >> 24 == ((uint64_t{0x5C} << 32) | tag));
    for (const int64_t id : ids) pair.Insert(id);
    for (size_t i = 0; i < ids.size(); i += 2) pair.Erase(ids[i]);
    for (const int64_t id : ids) pair.CheckId(id);
    pair.CheckAll();
    for (size_t i = 1; i < ids.size(); i += 2) pair.Erase(ids[i]);
    for (const int64_t id : ids) pair.CheckId(id);
  }
}

// Lengths of stripes are shifted against each other: the whole grows in small steps, and is never nearly
// empty.
void GrowsInSmallSteps(bool whole) {
  Pair pair(whole);
  int64_t before = 0;
  for (int64_t id = 0; id < 200'000; ++id) {
    pair.Insert(id);
    const int64_t now = pair.map().places();
    if (id > 30'000) {
      CHECK(now - before <= 1 + before / 256);
      CHECK(static_cast<double>(pair.size()) > (whole ? 0.6 : 0.68) * static_cast<double>(now));
    }
    before = now;
  }
  pair.CheckAll();
}

void ShrinksToWhatIsLeft(bool whole) {
  Pair pair(whole);
  for (int64_t id = 0; id < 50'000; ++id) pair.Insert(id);
  const int64_t full = pair.map().bytes();
  for (int64_t id = 0; id < 49'000; ++id) pair.Erase(id);
  CHECK(pair.map().bytes() == full);
  pair.map().Shrink();
  CHECK(pair.map().bytes() < full / 8);
  pair.CheckAll();
  for (int64_t id = 49'000; id < 50'000; ++id) pair.Erase(id);
  pair.map().Shrink();
  CHECK(pair.map().places() == 0);
  pair.CheckId(49'500);
  for (int64_t id = 0; id < 1000; ++id) pair.Insert(-id);
  pair.CheckAll();
}

void ReserveHoldsWhatItSays(bool whole) {
  Pair pair(whole);
  pair.map().Reserve(StripeOf(IdMap::Hash(1)), 500);
  const int64_t places = pair.map().places();
  int64_t id = 0;
  for (int inserted = 0; inserted < 500; ++id) {
    if (StripeOf(IdMap::Hash(id)) != StripeOf(IdMap::Hash(1))) continue;
    pair.Insert(id);
    ++inserted;
  }
  CHECK(pair.map().places() == places);
  pair.CheckAll();
}

}  // namespace
}  // namespace headrace

int main() {
  for (const bool whole : {false, true}) {
    headrace::AnEmptyMapFindsNothing(whole);
    headrace::EveryIdIsAnId(whole);
    headrace::AgreesWithAnOracle(whole, 50, 4000, 1);
    headrace::AgreesWithAnOracle(whole, 20'000, 100'000, 2);
    headrace::AgreesOverTheFullRange(whole);
    headrace::AgreesInOneCrowdedStripe(whole, 1, 1, 4);
    headrace::AgreesInOneCrowdedStripe(whole, 40, 1, 5);
    headrace::AgreesInOneCrowdedStripe(whole, 40, uint64_t{1} << 27, 6);
    headrace::TellsApartIdsWithEqualTags(whole);
    headrace::GrowsInSmallSteps(whole);
    headrace::ShrinksToWhatIsLeft(whole);
    headrace::ReserveHoldsWhatItSays(whole);
  }
  return headrace::ReportChecks("id_map_test");
}
