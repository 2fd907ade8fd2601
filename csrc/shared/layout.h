// What lies in the files of a shared space: one control file, one dense file, and for every table one file a
// generation. A space holds a model for serving; one process writes it, others read it.
//
// Consistency: versions are counted by epochs 1, 2, 3, ... Whatever differs between epoch e and e - 1 lies
// beside what e - 1 had, on the side e % 2, and a cell that differs says so. A reader says in its own place
// which epoch it reads; the writer begins epoch e + 1 only when no reader is before e. So a reader finds the
// whole of its epoch without a lock and without ever reading twice, however long it takes.
//
// Thread safety: fields that several processes touch are atomic; the rest is written before it is published.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "rules/kernels.h"

namespace headrace::shared {

inline constexpr uint64_t kMagic = 0x3153525048524548ULL;
inline constexpr uint32_t kLayout = 1;
inline constexpr int kMaxReaders = 256;
inline constexpr int kMaxTables = 1024;
inline constexpr size_t kPage = 4096;

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

// What belongs to one epoch. Written before its epoch is published, unchanged until nobody reads it.
struct Side {
  int64_t version = -1;
  int64_t parent = -1;
  int64_t rows[kMaxTables] = {};
  uint64_t generation[kMaxTables] = {};  // which file a table is in; 0: none
};

struct alignas(64) ReaderPlace {
  std::atomic<uint64_t> epoch{0};  // that is being read; 0: none
};

struct Control {
  uint64_t magic = kMagic;
  uint32_t layout = kLayout;
  uint32_t tables = 0;
  uint64_t dense_bytes = 0;  // of one side
  alignas(64) std::atomic<uint64_t> epoch{0};
  alignas(64) Side sides[2];
  ReaderPlace readers[kMaxReaders];
};

// A cell's word: where its row is after the newest epoch that changed it, and, while that epoch is young,
// where it was before.
//   bits 0-30   slot now + 1, 0: no row      bit 62  young: the other slot counts for the epoch before
//   bits 31-61  slot before + 1, 0: no row   bit 63  e % 2 of the epoch that made it young
// 0 is a cell never used; kTomb one whose id was removed.
using Word = uint64_t;
inline constexpr Word kEmpty = 0;
inline constexpr Word kTomb = 1ULL << 63;
inline constexpr uint32_t kNoSlot = 0x7FFFFFFF;
inline constexpr uint64_t kSlotMask = 0x7FFFFFFF;
inline constexpr int64_t kMaxSlots = 0x7FFFFFFE;

inline Word OldWord(uint32_t slot) {
  return static_cast<Word>(slot + 1);
}
inline Word YoungWord(uint32_t now, uint32_t before, uint64_t epoch) {
  const uint64_t first = now == kNoSlot ? 0 : static_cast<uint64_t>(now) + 1;
  const uint64_t second = before == kNoSlot ? 0 : static_cast<uint64_t>(before) + 1;
  return first | second << 31 | 1ULL << 62 | (epoch & 1) << 63;
}
inline bool IsYoung(Word word) {
  return (word >> 62 & 1) != 0;
}
inline uint32_t SlotNow(Word word) {
  return static_cast<uint32_t>((word & kSlotMask) - 1) & 0x7FFFFFFF;
}
inline uint32_t SlotBefore(Word word) {
  return static_cast<uint32_t>((word >> 31 & kSlotMask) - 1) & 0x7FFFFFFF;
}
// The slot that a reader of `epoch` finds; kNoSlot: no row. A young cell of the other side belongs to the
// epoch after, because the writer settles each epoch before it begins the next.
inline uint32_t SlotAt(Word word, uint64_t epoch) {
  if (word == kTomb) return kNoSlot;
  if (IsYoung(word) && (word >> 63) != (epoch & 1)) return SlotBefore(word);
  return SlotNow(word);
}

struct Cell {
  std::atomic<int64_t> id{0};
  std::atomic<Word> word{kEmpty};
};
static_assert(sizeof(Cell) == 16);

// Head of a table file; cells follow at kPage, rows after them.
struct TableHead {
  uint64_t magic = kMagic;
  uint32_t layout = kLayout;
  int32_t precision = 0;
  int64_t dim = 0;
  int64_t row_bytes = 0;
  uint64_t cells = 0;  // a power of two
  uint64_t slots = 0;
  uint64_t rows_at = 0;
};

}  // namespace headrace::shared
