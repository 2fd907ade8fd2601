// Journal: which ids changed at which mark, in order, so that "what changed since" costs what changed.
//
// An entry is current when it is the last of its id. The owner knows the mark of the last change of every
// live row; for ids without a row the last entry is the removal. Entries that are not current are dropped
// when they are as many as the others were after the last compaction, so the journal stays within 2 (rows +
// removals not forgotten) + 1024.
//
// Thread safety: const members may run together; anything else needs the journal alone.
// Invariants:
//   1. Marks ascend; an id stands at most once under one mark.
//   2. Every id that changed after floor() has its last change in the journal. Nothing else is ever dropped.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace headrace {

class Journal {
 public:
  // Writes, for each id, the mark of the last change of its row, or 0 when it has no row. Asked in blocks, so
  // that the owner can overlap its cache misses.
  using LiveMarks = std::function<void(std::span<const int64_t>, uint64_t*)>;

  // What changed, each id once.
  struct Since {
    std::vector<int64_t> put;      // ids with a row, in no order
    std::vector<int64_t> removed;  // ids without, ascending
  };

  // Makes room for `count` entries; may compact. Throws std::bad_alloc; nothing current is lost.
  void Reserve(size_t count, const LiveMarks& live);

  // Appends a change. REQUIRES: mark >= every earlier mark; room from Reserve. Cost: O(1).
  void Add(uint64_t mark, int64_t id);

  // Returns what changed after mark `since`. REQUIRES: since >= floor(). Cost: O(entries since) and a sort.
  Since Read(uint64_t since, const LiveMarks& live) const;

  // Returns the removals that are not forgotten, ids ascending, with their marks.
  void Removals(const LiveMarks& live, std::vector<int64_t>* ids, std::vector<int64_t>* marks) const;

  // Drops entries up to `mark`.
  void Forget(uint64_t mark);

  uint64_t floor() const { return floor_; }
  int64_t entries() const { return static_cast<int64_t>(ids_.size() - head_); }
  int64_t bytes() const;

 private:
  struct Run {
    uint64_t mark;
    size_t end;  // one past its last entry in ids_
  };
  struct Removal {
    int64_t id;
    uint64_t mark;
  };

  size_t RunAfter(uint64_t mark) const;
  size_t StartOf(size_t run) const { return run == first_run_ ? head_ : runs_[run - 1].end; }

  // Calls visit(id, mark of the entry, mark of the id's row or 0) for every entry after `since`, in order.
  template <typename Visit>
  void ForEach(uint64_t since, const LiveMarks& live, Visit visit) const;

  std::vector<Removal> LastRemovals(uint64_t since, const LiveMarks& live) const;
  void Compact(const LiveMarks& live);
  void Trim();

  std::vector<int64_t> ids_;
  std::vector<Run> runs_;
  size_t head_ = 0;       // entries before it are forgotten
  size_t first_run_ = 0;  // runs before it are forgotten
  size_t settled_ = 0;    // entries after the last compaction
  uint64_t floor_ = 0;
};

}  // namespace headrace
