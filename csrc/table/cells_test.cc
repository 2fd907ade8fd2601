#include "table/cells.h"

#include <cstring>
#include <limits>
#include <new>

#include "snapshot/samples.h"
#include "table/check.h"

namespace headrace {
namespace {

// What a cell should hold: its number, repeated as far as it fits.
void Fill(Cells& cells, Cell cell) {
  for (int64_t at = 0; at + 4 <= cells.cell_bytes(); at += 4)
    std::memcpy(cells.At(cell) + at, &cell, sizeof cell);
}

bool Holds(const Cells& cells, Cell cell) {
  for (int64_t at = 0; at + 4 <= cells.cell_bytes(); at += 4) {
    if (std::memcmp(cells.At(cell) + at, &cell, sizeof cell) != 0) return false;
  }
  return true;
}

void GrowsAndShrinksAtItsEnd(int64_t cell_bytes, int shift, int64_t most) {
  Cells cells(cell_bytes, shift);
  CHECK(cells.room() == 0 && cells.bytes() == 0);
  Dice dice(static_cast<uint64_t>(cell_bytes + shift));
  int64_t filled = 0;
  for (int round = 0; round < 60; ++round) {
    if (dice.Below(3) > 0) {
      const int64_t wanted = dice.Between(filled, most);
      cells.Grow(wanted);
      CHECK(cells.room() >= wanted);
      for (; filled < wanted; ++filled) Fill(cells, static_cast<Cell>(filled));
    } else {
      filled = dice.Between(0, filled);
      const int64_t before = cells.bytes();
      cells.Shrink(filled);
      CHECK(cells.room() >= filled && cells.bytes() <= before);
    }
    CHECK(cells.bytes() >= cells.room() * cell_bytes);
    bool all = true;
    for (int64_t cell = 0; cell < filled; ++cell) all = all && Holds(cells, static_cast<Cell>(cell));
    CHECK(all);
  }
}

void AFewCellsCostLittle() {
  Cells cells(64, 15);
  cells.Grow(10);
  CHECK(cells.bytes() <= 64 * 64);
  cells.Grow(1000);
  CHECK(cells.bytes() <= 2 * 1000 * 64 + 4096);
  cells.Shrink(10);
  CHECK(cells.bytes() <= 64 * 64);
}

void SpareRoomIsBounded() {  // as `headrace/store/capacity.py` counts it
  Cells cells(128, 14);
  for (int64_t count = 1; count < 200'000; count += 1 + count / 7) {
    cells.Grow(count);
    const int64_t used = count * 128;
    CHECK(cells.bytes() - used <= std::max<int64_t>(16 * 128, std::min(used, int64_t{2} << 20)));
  }
}

void MoreCellsThanNumbersAreRefused() {
  Cells cells(0, 16);
  cells.Grow(100);
  bool thrown = false;
  try {
    cells.Grow(std::numeric_limits<int64_t>::max());
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  CHECK(thrown && cells.room() >= 100);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::GrowsAndShrinksAtItsEnd(0, 4, 300);
  headrace::GrowsAndShrinksAtItsEnd(8, 5, 500);
  headrace::GrowsAndShrinksAtItsEnd(12, 3, 300);
  headrace::GrowsAndShrinksAtItsEnd(20, 0, 50);
  headrace::GrowsAndShrinksAtItsEnd(68, 14, 40'000);
  headrace::AFewCellsCostLittle();
  headrace::SpareRoomIsBounded();
  headrace::MoreCellsThanNumbersAreRefused();
  return headrace::ReportChecks("cells_test");
}
