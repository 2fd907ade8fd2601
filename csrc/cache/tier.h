// Tier: which rows of a store deserve memory, where the others lie in a file. It counts how often rows are
// learned and says which row in memory a row in the file may take the place of; the store moves them.
//
// Policy, least frequently used with ageing: every row has a counter of one byte, wherever it lies. A row in
// the file moves up when it was learned at least kAtLeast times and more often than the least frequent of the
// next kLook rows in memory. After kSample touches for each row in memory all counters are halved, so what
// was popular long ago is forgotten. Where a row lies never changes what is learned, only how fast.
//
// Thread safety: FetchAhead may be called from any thread; anything else needs the object alone. Invariants:
//   1. After Cover(n) there is a counter for each of the first n cells; only Cover allocates memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cache/cold_file.h"
#include "table/cells.h"

namespace headrace {

// Where cold rows go, and how much memory the rest may take. No folder: there is no tier.
struct TierSpec {
  std::string folder;
  int64_t memory_bytes = -1;
  int64_t hot_rows = -1;  // of tests: so many rows in memory, whatever the bytes

  bool used() const { return !folder.empty(); }
};

struct TierStats {
  int64_t hot_rows = 0, cold_rows = 0;         // places for rows in memory, and rows beyond them
  int64_t memory_bytes = 0, disk_bytes = 0;    // held in memory, and the length of the file
  int64_t hits = 0, misses = 0, promoted = 0;  // rows found in memory and in the file by updates; moved up
};

class Tier {
 public:
  explicit Tier(TierSpec spec) : spec_(std::move(spec)), file_(spec_.folder) {}

  const TierSpec& spec() const { return spec_; }
  ColdFile* file() { return &file_; }
  const ColdFile& file() const { return file_; }

  // Makes counters for the first `cells` cells. Throws std::bad_alloc.
  void Cover(int64_t cells);
  bool covers() const { return !heat_.empty(); }

  // --- counting; before there are counters only hits are ---
  // A row was learned that was there before, in memory or in the file.
  void Hit(Cell cell) {
    ++hits_;
    if (cell < heat_.size()) Warm(cell);
  }
  void Miss(Cell cell) {
    ++misses_;
    Warm(cell);
  }
  // A row was born, or is expected to be learned so often.
  void Set(Cell cell, uint8_t heat) {
    if (cell < heat_.size()) heat_[cell] = heat;
  }
  // Halves the counters when it is time, `hot` cells being in memory.
  void Age(int64_t hot);

  // --- moving ---
  // The cell among the first `hot` whose row should make room for that of `cell`, or kNoCell. `live` has a
  // bit for every cell.
  Cell Victim(Cell cell, int64_t hot, const std::vector<uint64_t>& live);
  // The rows of two cells change places.
  void Exchanged(Cell x, Cell y) {
    std::swap(heat_[x], heat_[y]);
    ++promoted_;
  }

  // --- reading ahead ---
  // Whether the system has lately waited for the disk: then asking for pages early pays.
  bool FetchAhead() const { return fetch_steps_.load(std::memory_order_relaxed) > 0; }
  // To be called once a step: looks whether the process has waited for the disk since.
  void Watch();

  int64_t bytes() const { return static_cast<int64_t>(heat_.capacity()); }
  int64_t hits() const { return hits_; }
  int64_t misses() const { return misses_; }
  int64_t promoted() const { return promoted_; }

 private:
  static constexpr uint8_t kMost = 255, kAtLeast = 2;
  static constexpr int64_t kLook = 16;
  static constexpr int64_t kSample = 16;
  static constexpr int kFetchSteps = 64;

  void Warm(Cell cell) {
    if (heat_[cell] != kMost) ++heat_[cell];
  }

  TierSpec spec_;
  ColdFile file_;
  std::vector<uint8_t> heat_;  // by cell
  int64_t hand_ = 0;
  int64_t touched_ = 0;  // hits and misses when the counters were last halved
  int64_t hits_ = 0, misses_ = 0, promoted_ = 0;
  int64_t faults_ = -1;
  std::atomic<int> fetch_steps_{0};
};

}  // namespace headrace
