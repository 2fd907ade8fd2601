// Capture: a table as it was at one mark, read stripe by stripe while the table goes on learning.
//
// A stripe is read under the table's reader lock, as long as copying 1/256 of the rows takes; between stripes
// writers run, and keep what they change of stripes that were not read yet (see Frozen). Their copies are
// bounded by TableSpec::capture_limit: a writer that would exceed it waits until the capture has got further.
//
// Thread safety: Next and Close from one thread at a time; the rest is called by the table under its lock.
// Invariants:
//   1. The blocks together are the table at the mark of Table::Begin: every row, slot, time, count and filter
//   byte.
//   2. At most one capture of a table exists. Destruction ends it at any time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "snapshot/block.h"
#include "snapshot/block_source.h"
#include "snapshot/file_format.h"
#include "table/frozen.h"
#include "table/table.h"

namespace headrace {

class Capture final : public BlockSource {
 public:
  // REQUIRES: called by Table::Begin, which holds the table alone. Throws std::bad_alloc.
  Capture(Table* table, int64_t since);
  ~Capture() override;

  Status Next(Block* out, bool* done) override;
  Status Close(Numbers* out) override;

  // The columns of its blocks; the parent of an increment is the caller's to set.
  Layout layout() const;
  uint64_t mark() const { return numbers_.mark; }

  // --- for the table, while it writes ---
  void KeepSketch(int stripe, const Sketch& sketch) noexcept;
  void KeepFrequencies() noexcept;
  int64_t bytes() const { return rows_->bytes() + counters_->bytes() + fixed_ + kept_.load(); }
  void Spoil() noexcept { failed_.store(true); }
  uint8_t FrequencyOf(Cell cell, uint8_t present) const {
    return cell < frequencies_.size() ? frequencies_[cell] : present;
  }

 private:
  void Copy(const RowStore& store, Frozen* frozen, int stripe, std::vector<std::byte>* records) const;
  void EmitRows(const std::vector<std::byte>& records, Block* out) const;
  void EmitCounters(const std::vector<std::byte>& records, Block* out) const;
  void End();

  Table* table_;
  const int64_t since_;  // below 0: everything
  const HeadLayout layout_, counter_layout_;
  const int64_t row_bytes_, embedding_bytes_;
  uint64_t base_ = 0;
  Numbers numbers_;
  int next_ = 0;
  std::unique_ptr<Frozen> rows_, counters_;
  std::array<std::vector<Removals::Entry>, kStripes> removals_;
  std::array<std::vector<int64_t>, kStripes> forgotten_;
  std::array<std::vector<std::byte>, kStripes>
      sketches_;  // as they were, of stripes written to before they were read
  std::array<bool, kStripes> sketch_wanted_{};
  std::vector<uint8_t> frequencies_;  // by cell, as they were before the first ageing
  int64_t fixed_ = 0;
  std::atomic<int64_t> kept_{0};
  std::atomic<bool> failed_{false};
  bool ended_ = false;
};

}  // namespace headrace
