// SpaceWriter: the one process that puts a model's versions into a shared space.
//
//   Begin -> (Put | Remove | dense())* -> Commit        a version that differs in a few rows
//   Begin(full) -> ... -> Commit                        every table made anew, in a file of its own
//
// Thread safety: none; one caller at a time.
// Invariants:
//   1. Until Commit returns, readers find the epoch before, whole. From then on new readers find the new one.
//   2. A failed call leaves the epoch before as it was: Abort takes back what was begun.
//   3. No file, row or dense byte is used again while a reader may still read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "shared/layout.h"
#include "shared/mapped_file.h"
#include "shared/shared_table.h"
#include "table/status.h"

namespace headrace::shared {

class SpaceWriter {
 public:
  // Makes the files of an empty space in a folder that is there and has none.
  Status Create(const std::string& folder, std::vector<Shape> tables, size_t dense_bytes);

  // Begins the next epoch; waits at most so long for readers of the one before the last. kBusy: one of them
  // has not moved on; detail: its number. `full`: every table is to be refilled, none keeps its rows.
  Status Begin(bool full, int64_t wait_us);

  // REQUIRES (all): between Begin and Commit; ids unique within one call; rows finite, dim wide.
  Status Put(int table, std::span<const int64_t> ids, std::span<const float> rows);
  Status Remove(int table, std::span<const int64_t> ids);
  // Where dense bytes of the next epoch are written; at Begin they are those of the epoch before.
  std::byte* dense();

  Status Commit(int64_t version, int64_t parent);
  void Abort();
  // Gives up what the last epoch replaced, if no reader is before it; Begin does it too.
  bool Settle(int64_t wait_us);

  // Forgets a reader that is gone, of places [first, last).
  void Release(int first, int last);

  int64_t rows(int table) const { return parts_[static_cast<size_t>(table)].table.rows(); }
  uint64_t bytes(int table) const;
  size_t dense_bytes() const { return dense_bytes_; }
  int tables() const { return static_cast<int>(parts_.size()); }
  uint64_t epoch() const { return control_ ? control_->epoch.load() : 0; }

 private:
  struct Part {
    Shape shape;
    SharedTable table;     // of the newest epoch, or of the one that is made
    SharedTable previous;  // what readers of the epoch before have; open while it differs
    uint64_t generation = 0, previous_generation = 0;
  };
  std::string Path(int table, uint64_t generation) const;
  Status Move(int table, int64_t rows, bool copy);
  Side& side(uint64_t epoch) { return control_->sides[epoch & 1]; }
  int Waiting(uint64_t before) const;

  std::string folder_;
  MappedFile control_file_, dense_file_;
  Control* control_ = nullptr;
  std::vector<Part> parts_;
  size_t dense_bytes_ = 0, dense_stride_ = 0;
  uint64_t next_ = 0;  // the epoch that is being made; 0: none
  uint64_t generations_ = 0;
  bool settled_ = true;
};

}  // namespace headrace::shared
