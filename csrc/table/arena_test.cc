#include "table/arena.h"

#include <set>
#include <vector>

#include "table/check.h"

namespace headrace {
namespace {

void CellsCarryTheirIdAndDoNotOverlap() {
  Arena arena(8 + 20);
  arena.Reserve(10'000);
  for (int64_t id = 0; id < 10'000; ++id) {
    const Cell cell = arena.Take(id * 3 - 5000);
    std::memset(arena.At(cell) + 8, static_cast<int>(id & 0xFF), 20);
  }
  for (Cell cell = 0; cell < 10'000; ++cell) {
    CHECK(arena.IdOf(cell) == int64_t{cell} * 3 - 5000);
    CHECK(arena.IsLive(cell));
    CHECK(arena.At(cell)[27] == static_cast<std::byte>(cell & 0xFF));
    CHECK(reinterpret_cast<uintptr_t>(arena.At(cell)) % 8 == 0);
  }
}

void FreedCellsAreUsedBeforeFreshOnes() {
  Arena arena(64);
  arena.Reserve(1000);
  for (int64_t id = 0; id < 1000; ++id) arena.Take(id);
  const int64_t bytes = arena.bytes();
  std::set<Cell> freed;
  for (Cell cell = 0; cell < 1000; cell += 3) {
    arena.Give(cell);
    freed.insert(cell);
    CHECK(!arena.IsLive(cell));
  }
  CHECK(arena.size() == 1000 - static_cast<int64_t>(freed.size()));
  arena.Reserve(static_cast<int64_t>(freed.size()));
  while (!freed.empty()) CHECK(freed.erase(arena.Take(7)) == 1);
  CHECK(arena.end() == 1000);
  CHECK(arena.bytes() == bytes);
}

void CellsDoNotMoveWhileTheArenaGrows() {
  Arena arena(200);
  arena.Reserve(1);
  const Cell cell = arena.Take(42);
  const std::byte* place = arena.At(cell);
  arena.Reserve(100'000);
  CHECK(arena.At(cell) == place);
  CHECK(arena.IdOf(cell) == 42);
}

void MoreCellsThanNumbersAreRefused() {
  Arena arena(8);
  bool refused = false;
  try {
    arena.Reserve(int64_t{kNoCell} + 1);
  } catch (const std::bad_alloc&) {
    refused = true;
  }
  CHECK(refused);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::CellsCarryTheirIdAndDoNotOverlap();
  headrace::FreedCellsAreUsedBeforeFreshOnes();
  headrace::CellsDoNotMoveWhileTheArenaGrows();
  headrace::MoreCellsThanNumbersAreRefused();
  return headrace::ReportChecks("arena_test");
}
