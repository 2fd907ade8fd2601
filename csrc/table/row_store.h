// RowStore: ids with a head and a row of bytes each: a map, two arrays of cells, a free list, and which cells
// changed since when. It knows what a head holds and nothing about what a row means.
//
// A head is [id 8][event time 8]?[mark 4]?[frequency 1]? without padding; which of the last three there are
// is chosen at construction. Heads and rows lie in arrays of their own: a row of 16 floats with its Adagrad
// state is two cache lines exactly, and a scan of times or marks reads heads alone. Where a head would hold
// nothing but the id there are no heads: the map's lines are whole, and know the ids.
//
// With a tier, memory is bounded: what has no room in it lies in a file (see Cells and Tier), and Tend moves
// rows that are learned often into memory. Cells below some number are in memory. Such a store always has
// heads.
//
// Thread safety: const members may run together. Touch, SetTime, SetFrequency, Frequency, and writes to Row
// may run together for different cells; Link and map reservations for ids of different stripes too. Anything
// else needs the store alone. Invariants:
//   1. An id is in the map exactly when one live cell carries it.
//   2. A cell is live or free; free cells are handed out before new ones.
//   3. The mark of a block of 64 cells (and of 64 blocks) is at least that of every live cell in it.
//   4. While a Frozen is set, no live cell moves.
//   5. With heads the free list runs through the first bytes of free heads, without through those of free
//   rows.
#pragma once

#include <bit>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "cache/tier.h"
#include "table/cells.h"
#include "table/frozen.h"
#include "table/id_map.h"

namespace headrace {

struct HeadLayout {
  HeadLayout(bool times, bool marks, bool frequencies);
  int32_t time_at = -1, mark_at = -1, frequency_at = -1;  // -1: not kept
  int32_t bytes = 8;
};

class RowStore {
 public:
  RowStore(HeadLayout layout, int64_t row_bytes, const TierSpec& tier = {});

  // --- finding ---
  Cell Find(int64_t id) const { return map_.Find(id, heads_); }
  // cells[i] = the cell of ids[i] or kNoCell; hashes[i] = IdMap::Hash(ids[i]). Fetches the first
  // `fetch_bytes` of the rows found.
  void FindAll(std::span<const int64_t> ids, const uint64_t* hashes, Cell* cells, int64_t fetch_bytes) const;
  // The same, and rows[i] = where the row begins, or nullptr.
  void FindRows(std::span<const int64_t> ids, const uint64_t* hashes, Cell* cells, const float** rows,
                int64_t fetch_bytes) const;
  void FindAll(std::span<const int64_t> ids, Cell* cells) const;

  // --- one cell ---
  bool has_heads() const { return !map_.whole(); }
  // REQUIRES: has_heads.
  int64_t IdOf(Cell cell) const { return Load<int64_t>(cell, 0); }
  std::byte* Row(Cell cell) { return rows_.At(cell); }
  const std::byte* Row(Cell cell) const { return rows_.At(cell); }
  bool keeps_times() const { return layout_.time_at >= 0; }
  bool keeps_marks() const { return layout_.mark_at >= 0; }
  bool keeps_frequencies() const { return layout_.frequency_at >= 0; }
  int64_t Time(Cell cell) const { return keeps_times() ? Load<int64_t>(cell, layout_.time_at) : 0; }
  void SetTime(Cell cell, int64_t time) {
    if (keeps_times()) Store(cell, layout_.time_at, time);
  }
  uint8_t Frequency(Cell cell) const {
    return keeps_frequencies() ? Load<uint8_t>(cell, layout_.frequency_at) : uint8_t{0};
  }
  void SetFrequency(Cell cell, uint8_t frequency) {
    if (keeps_frequencies()) Store(cell, layout_.frequency_at, frequency);
  }
  // The mark of the last change, or the base mark where that is older. 0 where marks are not kept.
  uint64_t Mark(Cell cell) const { return keeps_marks() ? base_ + Load<uint32_t>(cell, layout_.mark_at) : 0; }
  // Notes that a cell changed at `mark`. REQUIRES: mark >= base(), mark - base() < 2^32.
  void Touch(Cell cell, uint64_t mark);
  HEADRACE_FETCH void FetchForWrite(Cell cell) const {
    if (layout_.bytes > 8) __builtin_prefetch(heads_.At(cell), 1);
    const std::byte* row = rows_.At(cell);
    for (int64_t at = 0; at < fetch_bytes_; at += 64) __builtin_prefetch(row + at, 1);
  }
  HEADRACE_FETCH void FetchForRead(Cell cell) const {
    if (has_heads()) __builtin_prefetch(heads_.At(cell));
    const std::byte* row = rows_.At(cell);
    for (int64_t at = 0; at < fetch_bytes_; at += 64) __builtin_prefetch(row + at);
  }

  // --- structure ---
  // Makes room for `count` more cells: as many calls of Take cannot fail. Throws std::bad_alloc; content
  // stays.
  void ReserveCells(int64_t count);
  void ReserveStripe(int stripe, uint32_t more) { map_.Reserve(stripe, more); }
  // Both, for ids that are absent and unique.
  void Reserve(std::span<const int64_t> ids);
  // Returns a cell that is live but in no map yet: its bytes are arbitrary. REQUIRES: room from ReserveCells.
  Cell Take();
  // Puts `id` into a cell from Take and the cell into the map; time, mark and frequency are 0.
  void Link(int64_t id, uint64_t hash, Cell cell);
  Cell Insert(int64_t id) {
    const Cell cell = Take();
    Link(id, IdMap::Hash(id), cell);
    return cell;
  }
  void Erase(int64_t id, Cell cell);
  // Moves cells together and gives memory back when more than a quarter is free. Cell numbers change. Cannot
  // fail.
  void Compact();
  // Makes `base` the mark that marks are kept relative to; older ones become `base`.
  void Rebase(uint64_t base);

  // --- the tier; without one these do nothing ---
  // The memory that this store may take from now on; what is too much goes to the file at once, and what
  // there is room for comes back. Throws DiskFailure when the map and the counters alone take more, or the
  // disk is full.
  void Fit(int64_t memory_bytes);
  // Rows were learned: found at `cells` (kNoCell: not found), or just born at `born`. Counts them, and moves
  // into memory what deserves it. Cells change; not while a Frozen is set.
  void Tend(const uint64_t* hashes, std::span<const Cell> cells, std::span<const Cell> born);
  // Moves the first rows of `order` (places in ids, by falling count) into memory, as many as there is room
  // for, as if they had been learned so often. Returns how many moved. REQUIRES: unique ids; no Frozen.
  int64_t Warm(std::span<const int64_t> ids, std::span<const int64_t> counts,
               std::span<const uint32_t> order);
  // Asks for the pages of cold rows among these ids, where the disk has been waited for lately; or only says
  // which. `hashes` may be null.
  void FetchCold(const int64_t* ids, const uint64_t* hashes, size_t count) const;
  void ColdPages(const int64_t* ids, const uint64_t* hashes, size_t count,
                 std::vector<uintptr_t>* pages) const;
  Tier* tier() { return tier_.get(); }
  const Tier* tier() const { return tier_.get(); }
  int64_t hot_rows() const;
  int64_t cold_bytes() const { return heads_.cold_bytes() + rows_.cold_bytes(); }

  // --- reading all ---
  template <typename Visit>
  void ForEach(Visit visit) const;  // visit(cell), in the order of memory; may erase the cell it is given
  template <typename Visit>
  void ForEachChanged(uint64_t since, Visit visit) const;  // visit(cell) for live cells with Mark > since
  // visit(cell, hash); what CopyHead wants to know of the hash is in it.
  template <typename Visit>
  void ForEachInStripe(int stripe, Visit visit) const {
    map_.ForEach(stripe, visit);
  }
  std::vector<std::pair<int64_t, Cell>> Sorted() const;  // (id, cell), ids ascending

  // While a capture reads the store, changes of cells it has not read are kept for it. nullptr: none.
  void SetFrozen(Frozen* frozen) { frozen_ = frozen; }
  // To be called before the head or row of a live cell, which is that of `id`, changes.
  void BeforeChange(int64_t id, Cell cell) {
    if (frozen_ == nullptr) return;
    const auto* head = has_heads() ? heads_.At(cell) : reinterpret_cast<const std::byte*>(&id);
    frozen_->Keep(cell, StripeOf(IdMap::Hash(id)), head, rows_.At(cell));
  }

  const HeadLayout& layout() const { return layout_; }
  // Writes the head of a cell, layout().bytes; `hash` is what ForEachInStripe gave with the cell.
  void CopyHead(Cell cell, uint64_t hash, std::byte* out) const {
    if (has_heads()) {
      std::memcpy(out, heads_.At(cell), static_cast<size_t>(layout_.bytes));
      return;
    }
    const auto id = static_cast<int64_t>(Unmix64(hash));
    std::memcpy(out, &id, sizeof id);
  }
  int64_t row_bytes() const { return row_bytes_; }
  int64_t record_bytes() const { return layout_.bytes + row_bytes_; }
  const std::vector<uint64_t>& live() const { return live_; }
  uint64_t base() const { return base_; }
  int64_t size() const { return size_; }
  int64_t places() const { return map_.places(); }
  int64_t bytes() const;
  uint64_t version() const { return version_; }  // moves whenever an id's cell may have changed

 private:
  static constexpr int64_t kMaxFetch = 256;
  static constexpr int kBlockBits = 6;

  template <typename T>
  T Load(Cell cell, int32_t at) const {
    T value;
    std::memcpy(&value, heads_.At(cell) + at, sizeof value);
    return value;
  }
  template <typename T>
  void Store(Cell cell, int32_t at, T value) {
    std::memcpy(heads_.At(cell) + at, &value, sizeof value);
  }
  template <bool kHeads>
  friend class RowFinder;
  std::byte* Link(Cell cell) { return has_heads() ? heads_.At(cell) : rows_.At(cell); }
  bool IsLive(Cell cell) const { return (live_[cell >> kBlockBits] >> (cell & 63)) & 1; }
  void MoveCell(Cell from, Cell to);
  void Exchange(Cell x, uint64_t hash_x, Cell y, uint64_t hash_y);
  int64_t HotLimit(int64_t more) const;
  void Cover(int64_t cells);

  HeadLayout layout_;
  int64_t row_bytes_;
  int64_t fetch_bytes_;
  std::unique_ptr<Tier> tier_;  // before the cells that lie in its file
  int64_t memory_ = 0;          // what Fit allowed
  Cells heads_;
  Cells rows_;
  IdMap map_;
  std::vector<uint64_t> live_;          // one bit a cell
  std::vector<uint32_t> block_marks_;   // of 64 cells each, relative to base_
  std::vector<uint32_t> region_marks_;  // of 64 blocks each
  Cell free_ = kNoCell;                 // where the free list begins
  int64_t free_count_ = 0;
  int64_t end_ = 0;  // cells ever handed out are below this number
  int64_t size_ = 0;
  uint64_t base_ = 0;
  uint64_t version_ = 0;
  Frozen* frozen_ = nullptr;
};

template <typename Visit>
void RowStore::ForEach(Visit visit) const {
  for (size_t block = 0; block < live_.size(); ++block) {
    for (uint64_t bits = live_[block]; bits != 0; bits &= bits - 1) {
      visit(static_cast<Cell>((block << kBlockBits) + static_cast<size_t>(std::countr_zero(bits))));
    }
  }
}

template <typename Visit>
void RowStore::ForEachChanged(uint64_t since, Visit visit) const {
  const uint64_t after = since > base_ ? since - base_ : 0;
  for (size_t region = 0; region < region_marks_.size(); ++region) {
    if (since >= base_ && region_marks_[region] <= after) continue;
    const size_t stop = std::min(block_marks_.size(), (region + 1) << kBlockBits);
    for (size_t block = region << kBlockBits; block < stop; ++block) {
      if (since >= base_ && block_marks_[block] <= after) continue;
      for (uint64_t bits = live_[block]; bits != 0; bits &= bits - 1) {
        const auto cell =
            static_cast<Cell>((block << kBlockBits) + static_cast<size_t>(std::countr_zero(bits)));
        if (Mark(cell) > since) visit(cell);
      }
    }
  }
}

// Looks ids up as they come, in steps for every id, each kAhead ids behind the one before: fetch its home
// line; read it, fetch head and row; do that with the next line for the few that are not at home; read the
// head, where there is one. So nothing waits for memory that was not asked for some ids earlier, and what the
// caller does between two ids hides it further.
//
// Thread safety: needs the object alone, and a store that nothing writes to.
// Invariants:
//   1. After Finish, cells[i] is the cell of ids[i] or kNoCell, and rows[i] where its row begins or nullptr.
template <bool kHeads>
class RowFinder {
 public:
  // The arrays are the caller's: ids and hashes are filled up to a place before it is pushed; rows may be
  // nullptr. REQUIRES: kHeads says whether the store has heads.
  RowFinder(const RowStore& store, const int64_t* ids, const uint64_t* hashes, Cell* cells,
            const float** rows, int64_t fetch_bytes)
      : store_(store), ids_(ids), hashes_(hashes), cells_(cells), rows_(rows), fetch_bytes_(fetch_bytes) {}

  // Takes the next id.
  HEADRACE_FETCH void Push() {
    store_.map_.Fetch(hashes_[count_]);
    Advance<false>(count_++);
  }

  // Ends the lookups of all ids that were pushed.
  void Finish() {
    for (size_t step = count_; step < count_ + kSteps * kAhead; ++step) Advance<true>(step);
  }

 private:
  using Line = std::conditional_t<kHeads, ShortLine, WholeLine>;
  static constexpr size_t kAhead = 16, kSteps = kHeads ? 3 : 2;

  HEADRACE_FETCH void FetchCell(size_t i) {
    if (kHeads) __builtin_prefetch(store_.heads_.At(cells_[i]));
    const std::byte* row = store_.rows_.At(cells_[i]);
    if (rows_ != nullptr) rows_[i] = reinterpret_cast<const float*>(row);
    for (int64_t at = 0; at < fetch_bytes_; at += 64) __builtin_prefetch(row + at);
  }

  template <bool kDrain>
  HEADRACE_FETCH void Advance(size_t step) {
    if (step >= kAhead && (!kDrain || step - kAhead < count_)) {
      const size_t i = step - kAhead;
      cells_[i] = store_.map_.Guess<Line>(hashes_[i]);
      if (cells_[i] < IdMap::kFurther) {
        FetchCell(i);
      } else if (rows_ != nullptr) {
        rows_[i] = nullptr;
      }
    }
    if (step >= 2 * kAhead && (!kDrain || step - 2 * kAhead < count_)) {
      const size_t i = step - 2 * kAhead;
      if (cells_[i] == IdMap::kFurther) {
        cells_[i] = store_.map_.GuessFurther<Line>(hashes_[i]);
        if (cells_[i] != kNoCell) FetchCell(i);
      }
    }
    if (kHeads && step >= 3 * kAhead) Verify(step - 3 * kAhead);
  }

  HEADRACE_FETCH void Verify(size_t i) {
    if (cells_[i] == kNoCell || store_.IdOf(cells_[i]) == ids_[i]) return;
    // Another id with the same tag: hardly ever.
    cells_[i] = store_.map_.FindHashed(hashes_[i], ids_[i], store_.heads_);
    if (rows_ == nullptr) return;
    rows_[i] = cells_[i] == kNoCell ? nullptr : reinterpret_cast<const float*>(store_.rows_.At(cells_[i]));
  }

  const RowStore& store_;
  const int64_t* ids_;
  const uint64_t* hashes_;
  Cell* cells_;
  const float** rows_;
  int64_t fetch_bytes_;
  size_t count_ = 0;
};

}  // namespace headrace
