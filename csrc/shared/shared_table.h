// SharedTable: one generation of one table in a file: an open-addressing map of ids, and encoded rows.
//
// Thread safety: one writer and any number of readers, as layout.h says. A writer's call must not run beside
// another one.
// Invariants:
//   1. Every id stands in one cell at most. Linear probing from Mix64(id); a chain ends at an empty cell.
//   2. A slot is written only while no reader can find it.
//   3. Cells that are not empty are at most 7/8 of all.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "shared/layout.h"
#include "shared/mapped_file.h"
#include "table/hash.h"
#include "table/status.h"

namespace headrace::shared {

struct Shape {
  int64_t dim = 0;
  Precision precision = Precision::kFloat32;
};

class SharedTable {
 public:
  // Makes a file with room for `rows` rows. kNoMemory: the folder has no room.
  Status Create(const std::string& path, Shape shape, int64_t rows);
  // Maps a file that another process made; kCorrupt if it is something else.
  Status Open(const std::string& path);

  const TableHead& head() const { return *reinterpret_cast<const TableHead*>(file_.data()); }
  uint64_t bytes() const { return file_.size(); }
  uint64_t used_bytes() const { return head().rows_at + high_ * static_cast<uint64_t>(head().row_bytes); }
  int64_t rows() const { return live_; }
  bool is_open() const { return file_.is_open(); }

  // For readers: the encoded row of an id in an epoch, or null.
  const std::byte* Find(int64_t id, uint64_t epoch) const {
    const uint64_t mask = mask_;
    for (uint64_t at = Mix64(static_cast<uint64_t>(id)) & mask;; at = (at + 1) & mask) {
      const Word word = cells_[at].word.load(std::memory_order_acquire);
      if (word == kEmpty) return nullptr;
      if (word == kTomb) continue;
      if (cells_[at].id.load(std::memory_order_relaxed) != id) continue;
      const uint32_t slot = SlotAt(word, epoch);
      return slot == kNoSlot ? nullptr : rows_ + static_cast<uint64_t>(slot) * row_bytes_;
    }
  }
  void Prefetch(int64_t id) const { __builtin_prefetch(&cells_[Mix64(static_cast<uint64_t>(id)) & mask_]); }

  // For the writer. A row that is put is young until Settle; Undo takes back all that is young.
  // kFull: no room left; then nothing of this call was lost that Undo would not restore.
  Status Put(int64_t id, const float* row, uint64_t epoch);
  void Remove(int64_t id, uint64_t epoch);
  // Puts a row that nobody reads yet, of an id that has none: for a file that is being filled.
  Status Fill(int64_t id, const std::byte* encoded);
  Status Fill(int64_t id, const float* row);
  void Settle();
  void Undo();

  // Whether so many more ids and rows fit.
  bool HasRoom(int64_t ids) const;
  // Calls visit(id, encoded row) for every row of an epoch.
  template <typename Visit>
  void Each(uint64_t epoch, Visit visit) const {
    for (uint64_t at = 0; at <= mask_; ++at) {
      const Word word = cells_[at].word.load(std::memory_order_acquire);
      if (word == kEmpty) continue;
      const uint32_t slot = SlotAt(word, epoch);
      if (slot != kNoSlot) {
        visit(cells_[at].id.load(std::memory_order_relaxed),
              rows_ + static_cast<uint64_t>(slot) * row_bytes_);
      }
    }
  }

 private:
  struct Touched {
    uint64_t cell;
    Word before;
  };
  void Attach();
  // The cell of an id, or the one to put it in: the first tomb on the way, else the empty end.
  uint64_t Place(int64_t id, bool* found) const;
  Status TakeSlot(uint32_t* slot);
  std::byte* RowAt(uint32_t slot) { return rows_ + static_cast<uint64_t>(slot) * row_bytes_; }

  MappedFile file_;
  Cell* cells_ = nullptr;
  std::byte* rows_ = nullptr;
  uint64_t mask_ = 0, row_bytes_ = 0;
  // The writer's own.
  std::vector<uint32_t> free_;
  std::vector<Touched> touched_;
  uint64_t high_ = 0, reserved_ = 0, taken_ = 0;
  int64_t live_ = 0, live_before_ = 0;
};

}  // namespace headrace::shared
