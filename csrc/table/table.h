// Table: one collisionless embedding table. The specification is `headrace/store/reference.py`; every call
// below does what the method of that name does there, bit by bit.
//
// Thread safety: every member function may be called from any thread. Lookup, Contains, Read*, Export,
// GetStats and reading a capture run together; Update, Assign, Remove, Evict, Clear, Forget, Import and
// Packed's writes run alone, and a waiting one is let in before later readers. A reader sees each write whole
// or not at all. Invariants:
//   1. A refused call (status not ok) changed nothing that can be observed; kNoMemory alone may have counted
//      occurrences in a count-min filter.
//   2. Every accepted write moves the mark by one.
//   3. An id has a row, or a pending count, or neither; never both.
//   4. Every change after the floor is told by ReadChanges (unless the table keeps no history: then the floor
//   is the
//      mark).
//   5. With a capacity, there are never more rows, not even inside a call.
//   6. No exception leaves a member function; failed allocations are Code::kNoMemory.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "table/fair_lock.h"
#include "table/parts.h"
#include "table/removals.h"
#include "table/row_store.h"
#include "table/sketch.h"
#include "table/spec.h"
#include "table/status.h"
#include "table/step_part.h"

namespace headrace {

class BlockSource;
class Capture;

// Unique ids (N), summed gradients (N, D), occurrences (N), event times in µs (N).
struct Gradients {
  std::span<const int64_t> ids;
  std::span<const float> grads;
  std::span<const int64_t> counts;
  std::span<const int64_t> times;
};

class Table {
 public:
  // REQUIRES: spec.dim >= 1. May throw std::bad_alloc (the only member that throws).
  explicit Table(const TableSpec& spec);

  // Writes the rows of `ids` to out (N, D); absent ids read their initial row. Changes nothing.
  // Cost: about two cache misses an id, overlapped.
  Status Lookup(std::span<const int64_t> ids, std::span<float> out) const;

  // Writes the initial rows of `ids` to out (N, D).
  Status Initial(std::span<const int64_t> ids, std::span<float> out) const;

  // Writes 1 where an id has a row, else 0.
  Status Contains(std::span<const int64_t> ids, std::span<uint8_t> out) const;

  // Learns one step with learning rate `lr`. Refuses, in this order: kServing, kDuplicateId, kBadCount,
  // kNotFinite, kNoMemory.
  Status Update(const Gradients& step, float lr);

  // Puts embeddings (N, D) under unique ids; `times` is empty or (N). Refuses kDuplicateId, kNotFinite,
  // kFull, kNoMemory.
  Status Assign(std::span<const int64_t> ids, std::span<const float> rows, std::span<const int64_t> times);

  // Removes rows and counts; detail: rows removed.
  Status Remove(std::span<const int64_t> ids);

  // Removes rows and counts last touched before `before`; detail: rows removed. Refuses kNoTimes.
  // Cost: a scan of all heads beside the readers, then a pause for what expires.
  Status Evict(int64_t before);

  // Removes all rows and counts.
  Status Clear();

  // Reads what changed after mark `since`; refuses kStale. Cost: what changed, and a sort.
  Status ReadChanges(uint64_t since, Changes* out) const;

  // Reads all rows.
  Status ReadRows(Changes* out) const;

  // Forgets changes up to `mark`; refuses kFuture.
  Status Forget(uint64_t mark);

  // Copies out, or takes over, all that the table holds.
  // REQUIRES for Import: parts as Export writes them (sorted, disjoint, marks in range, shapes of this
  // table).
  Status Export(Parts* out) const;
  Status Import(const Parts& parts);

  // Takes over what a snapshot holds: all blocks of a full one, and its numbers. Refuses kFull, kInvalid and
  // what the source refuses; the table is then as it was.
  Status Load(BlockSource* source, const Numbers& numbers);

  // Begins a capture of the table as it is now: all of it (since < 0), or what changed after mark `since`.
  // Writes go on meanwhile. Refuses kBusy, kNoHistory, kStale. REQUIRES: the table outlives the capture.
  Status Begin(int64_t since, std::unique_ptr<Capture>* out);

  // Rows that have learned, and those of them whose gradient a clip made shorter, since this table was made.
  // No part of what is exported.
  struct Clipping {
    int64_t learned = 0, clipped = 0;
  };
  Clipping GetClipping() const { return {learned_.load(), clipped_.load()}; }

  // --- with a cold tier (TableSpec::tier); without one they do nothing ---
  // Moves into memory the rows of unique `ids` that occur most, by `counts` (N), as if they had been learned
  // so often; ids without a row are passed over. detail: rows moved. Changes nothing that can be read.
  // Refuses kBadCount, kBusy.
  Status Warm(std::span<const int64_t> ids, std::span<const int64_t> counts);
  // Gives the system's memory for the file back; see ColdFile::Release.
  Status ReleasePages();
  TierStats GetTier() const;

  Stats GetStats() const;
  Numbers GetNumbers() const;
  const TableSpec& spec() const { return spec_; }
  int64_t dim() const { return spec_.dim; }
  int64_t slots() const { return slots_; }
  bool keeps_frequencies() const {
    return spec_.capacity >= 0 && spec_.victims == Victims::kRarest && !spec_.serving;
  }

 private:
  friend class Capture;
  friend class Packed;
  friend class PackedStep;
  friend class WriteLock;
  friend class WriteLocks;

  // All that changes; Import builds another and swaps.
  struct Content {
    Content(const TableSpec& spec, int64_t row_bytes);
    RowStore rows;
    RowStore pending;                // ids that wait for admission; a row is its count (int64)
    Removals removals;               // rows that went
    Removals forgotten;              // counts that went without becoming a row
    std::unique_ptr<Sketch> sketch;  // count-min admission only
    std::array<uint64_t, IdMap::kStripeCount> sketch_marks{};  // of the last addition to each stripe
    Numbers numbers;
  };

  // Whether anything asks how often an id occurs in a step.
  bool CountsMatter() const {
    return spec_.capacity >= 0 || !spec_.clips.empty() || spec_.admission.kind != AdmissionKind::kAll;
  }
  // Where the slots of a row begin, and where it ends: slots are floats and want their alignment.
  int64_t SlotsAt() const { return (EncodedBytes(spec_.precision, spec_.dim) + 3) / 4 * 4; }
  int64_t RowBytes() const { return SlotsAt() + 4 * slots_; }
  bool KeepsHistory() const { return spec_.history && !spec_.serving; }
  float* SlotsOf(Cell cell) const { return reinterpret_cast<float*>(content_->rows.Row(cell) + SlotsAt()); }
  Removals::Present RowPresent() const;
  Removals::Present AnyPresent() const;
  void ReadRow(Cell cell, float* out) const;
  void WriteRow(Cell cell, const float* row);

  // One step, in phases. Prepare, Count, MakeRoom and Commit may run in parallel for parts of disjoint
  // stripes; the others need the table alone. Only from Admit on does anything change (but for the count-min
  // filter, in Count).
  bool Prepare(StepPart* part, uint64_t mark) const;  // find, check, decide; false: a gradient is not finite
  void Count(StepPart* part);                         // count-min admission
  void Decide(TableStep* step) const;                 // what the capacity leaves, and who goes
  void MakeRoom(const TableStep& step, StepPart* part);  // map places; throws std::bad_alloc
  void ReserveStep(const TableStep& step);               // cells and removals; throws std::bad_alloc
  uint64_t Admit(TableStep* step);                       // evict, take cells, move the mark
  void Commit(StepPart& part, uint64_t mark, float lr);

  void LearnRow(StepPart& part, uint32_t index, Cell cell, uint64_t mark, float lr, float* scratch);
  void BearRow(int64_t id, Cell cell, float* scratch);
  void FreshSlots(Cell cell);
  Pace PaceOf(Cell cell, uint64_t mark);
  double LeftByMissing(float lr) const;
  void CommitCounters(const StepPart& part, uint64_t mark);
  void DecideCounters(TableStep* step) const;
  static void KeepMostFrequent(std::vector<StepPart>* parts, int64_t room, bool fresh);
  std::vector<Cell> ChooseVictims(int64_t count, int64_t newest, const std::vector<Cell>& spared) const;
  std::vector<Cell> OldestCounters(int64_t count, const std::vector<Cell>& spared) const;
  void EvictForRoom(const TableStep& step, uint64_t mark);

  uint64_t NextMark();
  void KeepWithinLimits() noexcept;
  void KeepWithinMemory() noexcept;
  void Tend(const TableStep& step);
  void DropRow(int64_t id, Cell cell, uint64_t mark);
  void DropCount(int64_t id, Cell cell, uint64_t mark);
  void GiveBack();
  void Gather(const std::vector<std::pair<int64_t, Cell>>& entries, Changes* out) const;
  bool MustWait(int64_t rows) const;  // REQUIRES: the table's lock or capture_lock_
  void WaitForCapture(int64_t rows);
  void WaitForNoCapture();
  void Become(Table* fresh);
  void StartAt(const Numbers& saved);

  TableSpec spec_;
  int64_t slots_ = 0;
  std::atomic<int64_t> learned_{0}, clipped_{0};
  std::unique_ptr<Content> content_;
  Capture* capture_ = nullptr;  // changes under both locks
  mutable FairLock lock_;
  std::mutex capture_lock_;
  std::condition_variable capture_moved_;
};

}  // namespace headrace
