#include "table/id_map.h"

#include <limits>
#include <random>
#include <unordered_map>
#include <vector>

#include "table/check.h"

namespace headrace {
namespace {

// A map and the arena that its entries live in.
struct Pair {
  Arena arena{8};
  IdMap map;

  void Insert(int64_t id) {
    arena.Reserve(1);
    map.Reserve(std::vector<int64_t>{id});
    map.Insert(id, arena.Take(id));
  }
  void Erase(int64_t id) {
    const Cell cell = map.Find(id, arena);
    map.Erase(id, arena);
    arena.Give(cell);
  }
};

constexpr int64_t kLow = std::numeric_limits<int64_t>::min();
constexpr int64_t kHigh = std::numeric_limits<int64_t>::max();

void AnEmptyMapFindsNothing() {
  const Pair pair;
  const std::vector<int64_t> ids{0, -1, kLow, kHigh};
  std::vector<Cell> cells(ids.size(), 0);
  pair.map.FindAll(ids, pair.arena, cells.data());
  for (size_t i = 0; i < ids.size(); ++i) {
    CHECK(pair.map.Find(ids[i], pair.arena) == kNoCell);
    CHECK(cells[i] == kNoCell);
  }
}

void EveryIdIsAnId() {
  Pair pair;
  for (const int64_t id : {int64_t{0}, int64_t{-1}, kLow, kHigh}) pair.Insert(id);
  for (const int64_t id : {int64_t{0}, int64_t{-1}, kLow, kHigh}) {
    CHECK(pair.arena.IdOf(pair.map.Find(id, pair.arena)) == id);
  }
  CHECK(pair.map.Find(1, pair.arena) == kNoCell);
}

// Random inserts and erases against std::unordered_map; few distinct ids, so that runs are long and often
// broken up.
void AgreesWithAnOracle(int64_t range, int steps, uint32_t seed) {
  Pair pair;
  std::unordered_map<int64_t, bool> oracle;
  std::mt19937_64 random(seed);
  for (int step = 0; step < steps; ++step) {
    const auto id = static_cast<int64_t>(random() % static_cast<uint64_t>(range)) - range / 2;
    if (oracle.count(id) != 0) {
      pair.Erase(id);
      oracle.erase(id);
    } else {
      pair.Insert(id);
      oracle[id] = true;
    }
  }
  CHECK(pair.map.size() == static_cast<int64_t>(oracle.size()));
  CHECK(pair.map.size() * 8 <= pair.map.places() * 7);
  std::vector<int64_t> ids;
  for (int64_t id = -range / 2 - 3; id <= range / 2 + 3; ++id) ids.push_back(id);
  std::vector<Cell> cells(ids.size());
  pair.map.FindAll(ids, pair.arena, cells.data());
  for (size_t i = 0; i < ids.size(); ++i) {
    const Cell cell = pair.map.Find(ids[i], pair.arena);
    CHECK(cell == cells[i]);
    CHECK((cell != kNoCell) == (oracle.count(ids[i]) != 0));
    if (cell != kNoCell) CHECK(pair.arena.IdOf(cell) == ids[i]);
  }
}

// Ids whose hashes agree in the stripe and in the 32 bits that the map keeps: only the key in the cell tells
// them apart.
void TellsApartIdsWithEqualTags() {
  const auto unmix = [](uint64_t value) {  // the inverse of Mix64
    value = (value ^ (value >> 31) ^ (value >> 62)) * 0x319642B2D24D8EC3ULL;
    value = (value ^ (value >> 27) ^ (value >> 54)) * 0x96DE1B173F119089ULL;
    return value ^ (value >> 30) ^ (value >> 60);
  };
  Pair pair;
  std::vector<int64_t> ids;
  for (uint64_t k = 0; k < 50; ++k) ids.push_back(static_cast<int64_t>(unmix((k << 40) | 0xABCDu)));
  for (const int64_t id : ids) CHECK((Mix64(static_cast<uint64_t>(id)) & 0xFFFFFFFFu) == 0xABCDu);
  for (const int64_t id : ids) pair.Insert(id);
  for (size_t i = 0; i < ids.size(); i += 2) pair.Erase(ids[i]);
  std::vector<Cell> cells(ids.size());
  pair.map.FindAll(ids, pair.arena, cells.data());
  for (size_t i = 0; i < ids.size(); ++i) {
    CHECK((cells[i] != kNoCell) == (i % 2 == 1));
    if (cells[i] != kNoCell) CHECK(pair.arena.IdOf(cells[i]) == ids[i]);
  }
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::AnEmptyMapFindsNothing();
  headrace::EveryIdIsAnId();
  headrace::AgreesWithAnOracle(50, 4000, 1);
  headrace::AgreesWithAnOracle(20'000, 100'000, 2);
  headrace::TellsApartIdsWithEqualTags();
  return headrace::ReportChecks("id_map_test");
}
