// RowStore: ids with a cell of data each: a map, an arena, and nothing about what the data means.
//
// Thread safety: const members may run together; anything else needs the store alone.
// Invariants:
//   1. An id is in the map exactly when one live cell of the arena carries it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "table/arena.h"
#include "table/id_map.h"

namespace headrace {

class RowStore {
 public:
  // Cells have `payload_bytes` after their id.
  explicit RowStore(int64_t payload_bytes) : arena_(payload_bytes + 8) {}

  Cell Find(int64_t id) const { return map_.Find(id, arena_); }
  void FindAll(std::span<const int64_t> ids, Cell* cells) const { map_.FindAll(ids, arena_, cells); }
  int64_t IdOf(Cell cell) const { return arena_.IdOf(cell); }

  // The data of a live cell; aligned to 8 bytes.
  std::byte* Data(Cell cell) { return arena_.At(cell) + 8; }
  const std::byte* Data(Cell cell) const { return arena_.At(cell) + 8; }

  // Makes room so that inserting `ids` (unique, absent) cannot fail. Throws std::bad_alloc; content stays.
  void Reserve(std::span<const int64_t> ids) {
    arena_.Reserve(static_cast<int64_t>(ids.size()));
    map_.Reserve(ids);
  }

  // Adds an id with arbitrary data. REQUIRES: absent; room from Reserve.
  Cell Insert(int64_t id) {
    const Cell cell = arena_.Take(id);
    map_.Insert(id, cell);
    return cell;
  }

  // Removes an id that is present. Cannot fail.
  void Erase(int64_t id, Cell cell) {
    map_.Erase(id, arena_);
    arena_.Give(cell);
  }

  // Calls visit(cell) for every live cell in the order of memory. `visit` may erase the cell it is given.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (int64_t cell = 0; cell < arena_.end(); ++cell) {
      if (arena_.IsLive(static_cast<Cell>(cell))) visit(static_cast<Cell>(cell));
    }
  }

  // Returns (id, cell) of all entries, ids ascending.
  std::vector<std::pair<int64_t, Cell>> Sorted() const {
    std::vector<std::pair<int64_t, Cell>> all;
    all.reserve(static_cast<size_t>(size()));
    ForEach([&](Cell cell) { all.emplace_back(IdOf(cell), cell); });
    std::sort(all.begin(), all.end());
    return all;
  }

  int64_t size() const { return map_.size(); }
  int64_t places() const { return map_.places(); }
  int64_t bytes() const { return map_.bytes() + arena_.bytes(); }

 private:
  Arena arena_;
  IdMap map_;
};

}  // namespace headrace
