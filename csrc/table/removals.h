// Removals: which ids went away at which mark, in order, so that "what was removed since" costs what was
// removed.
//
// An entry counts when its id is absent now and it is the last of its id. Entries that do not count are
// dropped when they are as many as those that remained after the last compaction, so the list stays within 2
// (removals that count)
// + 1024.
//
// Thread safety: const members may run together; anything else needs the list alone.
// Invariants:
//   1. Marks ascend.
//   2. Every id that was removed after floor() and is absent has its last removal here.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace headrace {

class Removals {
 public:
  // Writes, for each id, whether it is present (1) or absent (0). Asked in blocks, so that misses overlap.
  using Present = std::function<void(std::span<const int64_t>, uint8_t*)>;

  struct Entry {
    int64_t id;
    uint64_t mark;
  };

  // Makes room for `count` entries; may compact. Throws std::bad_alloc; nothing that counts is lost.
  void Reserve(size_t count, const Present& present);

  // Appends a removal. REQUIRES: mark >= every earlier mark; room from Reserve. Cost: O(1).
  void Add(uint64_t mark, int64_t id);

  // Returns ids removed after mark `since` and absent, ascending. REQUIRES: since >= floor().
  std::vector<int64_t> Since(uint64_t since, const Present& present) const;

  // Returns all that counts, ids ascending, with marks.
  std::vector<Entry> All(const Present& present) const { return Last(floor_, present); }

  // Drops entries up to `mark`.
  void Forget(uint64_t mark);

  // With more than `limit` entries that count, forgets the oldest so that at most limit / 2 remain, whole
  // marks at a time. Throws std::bad_alloc.
  void Limit(int64_t limit, const Present& present);

  uint64_t floor() const { return floor_; }
  int64_t entries() const { return static_cast<int64_t>(ids_.size() - head_); }
  int64_t bytes() const;

 private:
  struct Run {
    uint64_t mark;
    size_t end;  // one past its last entry in ids_
  };

  size_t RunAfter(uint64_t mark) const;
  size_t StartOf(size_t run) const { return run == first_run_ ? head_ : runs_[run - 1].end; }
  std::vector<Entry> Last(uint64_t since, const Present& present) const;
  void Compact(const Present& present);
  void Trim();

  std::vector<int64_t> ids_;
  std::vector<Run> runs_;
  size_t head_ = 0;       // entries before it are forgotten
  size_t first_run_ = 0;  // runs before it are forgotten
  size_t settled_ = 0;    // entries after the last compaction
  uint64_t floor_ = 0;
};

}  // namespace headrace
