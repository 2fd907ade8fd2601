// Table: one collisionless embedding table. The specification is `headrace/store/reference.py`; every call
// below does what the method of that name does there, bit by bit.
//
// A row is one cell: [id 8][event time 8][mark 8][embedding 4 D][slots 4 S], in 256 KiB chunks that never
// move.
//
// Thread safety: every member function may be called from any thread. Lookup, Contains, Read*, Export and
// GetStats run together; Update, Assign, Remove, Evict, Clear, Forget and Import run alone, and a waiting one
// is let in before later readers. A reader sees each write whole or not at all. Invariants:
//   1. A refused call (status not ok) changed nothing that can be observed.
//   2. Every accepted write moves the mark by one.
//   3. An id has a row, or a pending count, or neither; never both.
//   4. Every change after the floor is in the journal (unless the table serves: then the floor is the mark).
//   5. No exception leaves a member function; failed allocations are Code::kNoMemory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "rules/row_rule.h"
#include "table/admission.h"
#include "table/fair_lock.h"
#include "table/initial.h"
#include "table/journal.h"
#include "table/parts.h"
#include "table/row_store.h"
#include "table/status.h"

namespace headrace {

struct TableSpec {
  int64_t dim = 0;
  RowRule rule;
  InitialRow init;
  Admission admission;
  bool serving = false;  // no slots, no admission, no change history, no Update
};

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

  // Learns one step. Refuses, in this order: kServing, kDuplicateId, kBadCount, kNotFinite, kNoMemory.
  Status Update(const Gradients& step);

  // Puts embeddings (N, D) under unique ids; `times` is empty or (N). Refuses kDuplicateId, kNotFinite,
  // kNoMemory.
  Status Assign(std::span<const int64_t> ids, std::span<const float> rows, std::span<const int64_t> times);

  // Removes rows and counts; detail: rows removed.
  Status Remove(std::span<const int64_t> ids);

  // Removes rows and counts last touched before `before`; detail: rows removed.
  // Cost: a scan of all cells beside the readers, then a pause for what expires.
  Status Evict(int64_t before);

  // Removes all rows and counts.
  Status Clear();

  // Reads what changed after mark `since`; refuses kStale.
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

  Stats GetStats() const;
  Counters GetCounters() const;
  int64_t dim() const { return spec_.dim; }
  int64_t slots() const { return slots_; }

 private:
  struct Head {  // what lies before the floats of a row
    int64_t time;
    uint64_t mark;
  };
  struct Waiting {  // what lies in a cell of the filter
    int64_t time;
    int64_t count;
  };
  // All that changes; Import builds another and swaps.
  struct Content {
    Content(int64_t row_bytes) : rows(row_bytes), pending(sizeof(Waiting)) {}
    RowStore rows;
    RowStore pending;
    Journal journal;
    Counters counters;
  };
  // What an update will do with an id, decided before anything changes.
  struct Plan {
    std::vector<Cell> cells;        // row of each id, or kNoCell
    std::vector<Cell> waiting;      // filter cell of each id, or kNoCell
    std::vector<uint8_t> admitted;  // whether an id without a row gets one
    std::vector<int64_t> fresh;     // ids that get a row
    std::vector<int64_t> counted;   // ids that get a filter cell
  };

  static Head* HeadOf(RowStore& rows, Cell cell) { return reinterpret_cast<Head*>(rows.Data(cell)); }
  static const Head* HeadOf(const RowStore& rows, Cell cell) {
    return reinterpret_cast<const Head*>(rows.Data(cell));
  }
  static float* FloatsOf(RowStore& rows, Cell cell) {
    return reinterpret_cast<float*>(rows.Data(cell) + sizeof(Head));
  }
  static const float* FloatsOf(const RowStore& rows, Cell cell) {
    return reinterpret_cast<const float*>(rows.Data(cell) + sizeof(Head));
  }
  static Waiting* WaitingOf(RowStore& pending, Cell cell) {
    return reinterpret_cast<Waiting*>(pending.Data(cell));
  }
  static Journal::LiveMarks LiveMarksOf(const RowStore& rows);

  int64_t RowBytes() const { return static_cast<int64_t>(sizeof(Head)) + 4 * (spec_.dim + slots_); }
  void MakePlan(const Gradients& step, uint64_t mark, Plan* plan) const;
  bool Admits(int64_t id, int64_t count, Cell waiting, uint64_t mark) const;
  void Learn(const Gradients& step, const Plan& plan, uint64_t mark);
  void Wait(int64_t id, Cell waiting, int64_t count, int64_t time);
  Cell InsertRow(int64_t id, int64_t time);
  void DropRow(int64_t id, Cell cell, uint64_t mark);
  void ForgetCount(int64_t id);
  uint64_t NextMark();
  void Gather(const std::vector<std::pair<int64_t, Cell>>& entries, Changes* out) const;

  TableSpec spec_;
  int64_t slots_ = 0;
  std::unique_ptr<Content> content_;
  mutable FairLock lock_;
};

}  // namespace headrace
