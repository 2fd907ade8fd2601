// SpaceReader: one reader's place in a shared space.
//
// Thread safety: none; every thread that reads has a reader of its own.
// Invariants:
//   1. Between Enter and Leave all that is read belongs to one epoch.
//   2. Enter and Leave never wait. While a reader is inside, the writer begins at most one epoch more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "shared/layout.h"
#include "shared/mapped_file.h"
#include "shared/shared_table.h"
#include "table/initial.h"
#include "table/status.h"

namespace headrace::shared {

class SpaceReader {
 public:
  ~SpaceReader() { Leave(); }

  // REQUIRES: nobody else reads in this place. `initial` has one for every table: what an id without a row
  // reads.
  Status Open(const std::string& folder, int place, std::vector<InitialRow> initial);

  // kStale: nothing was committed yet. kIo: a table's file cannot be mapped; then the reader is outside.
  Status Enter();
  void Leave();
  bool inside() const { return epoch_ != 0; }

  // REQUIRES (all): inside.
  int64_t version() const { return side().version; }
  int64_t parent() const { return side().parent; }
  int64_t rows(int table) const { return side().rows[table]; }
  const std::byte* dense() const { return dense_file_.data() + (epoch_ & 1) * dense_stride_; }
  int half() const { return static_cast<int>(epoch_ & 1); }
  // Writes rows[i * stride ..] for every id; cost: a cache miss or two an id, overlapped.
  void Read(int table, std::span<const int64_t> ids, float* rows, int64_t stride) const;
  void Prefetch(int table, int64_t id) const { tables_[static_cast<size_t>(table)].table.Prefetch(id); }
  bool Has(int table, int64_t id) const;
  // All rows, ids ascending.
  void ReadAll(int table, std::vector<int64_t>* ids, std::vector<float>* rows) const;

  // Any time.
  int tables() const { return static_cast<int>(tables_.size()); }
  int64_t dim(int table) const;
  size_t dense_bytes() const { return dense_bytes_; }
  const std::byte* dense_half(int half) const {
    return dense_file_.data() + static_cast<size_t>(half) * dense_stride_;
  }
  // The newest version, without entering; -1: none.
  int64_t newest() const;

 private:
  struct Part {
    SharedTable table;
    uint64_t generation = 0;
    InitialRow initial;
  };
  const Side& side() const { return control_->sides[epoch_ & 1]; }

  std::string folder_;
  MappedFile control_file_, dense_file_;
  Control* control_ = nullptr;
  ReaderPlace* place_ = nullptr;
  std::vector<Part> tables_;
  size_t dense_bytes_ = 0, dense_stride_ = 0;
  uint64_t epoch_ = 0;
};

}  // namespace headrace::shared
