#include "shared/shared_table.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

namespace headrace::shared {
namespace {

constexpr uint64_t kReserveBytes = 1 << 20;

uint64_t RoundUp(uint64_t value, uint64_t to) {
  return (value + to - 1) / to * to;
}

// Cells for so many rows: at most 2/3 of them are taken by rows, the rest is for tombs.
uint64_t CellsFor(int64_t rows) {
  return std::bit_ceil(std::max<uint64_t>(static_cast<uint64_t>(rows) * 3 / 2 + 1, 64));
}

}  // namespace

Status SharedTable::Create(const std::string& path, Shape shape, int64_t rows) {
  if (rows > kMaxSlots) return {Code::kFull, kMaxSlots};
  const uint64_t slots = static_cast<uint64_t>(std::max<int64_t>(rows, 16)), cells = CellsFor(rows);
  // Rows stand at multiples of 4 bytes at least, so that their numbers are aligned.
  const auto row_bytes =
      static_cast<uint64_t>(RoundUp(static_cast<uint64_t>(EncodedBytes(shape.precision, shape.dim)), 4));
  const uint64_t rows_at = RoundUp(kPage + cells * sizeof(Cell), kPage);
  if (const Status made = file_.Create(path, rows_at + slots * row_bytes); !made.ok()) return made;
  if (const Status there = file_.Reserve(0, rows_at); !there.ok()) return there;
  auto* head = new (file_.data()) TableHead;
  head->precision = static_cast<int32_t>(shape.precision);
  head->dim = shape.dim;
  head->row_bytes = static_cast<int64_t>(row_bytes);
  head->cells = cells;
  head->slots = slots;
  head->rows_at = rows_at;
  Attach();
  return {};
}

Status SharedTable::Open(const std::string& path) {
  if (const Status mapped = file_.Open(path); !mapped.ok()) return mapped;
  const bool large = file_.size() >= kPage;
  if (!large || head().magic != kMagic || head().layout != kLayout || !std::has_single_bit(head().cells) ||
      head().rows_at < kPage + head().cells * sizeof(Cell) ||
      file_.size() < head().rows_at + head().slots * static_cast<uint64_t>(head().row_bytes)) {
    file_.Close();
    return {Code::kCorrupt, 0};
  }
  Attach();
  return {};
}

void SharedTable::Attach() {
  cells_ = reinterpret_cast<Cell*>(file_.data() + kPage);  // zeros are empty cells
  rows_ = file_.data() + head().rows_at;
  mask_ = head().cells - 1;
  row_bytes_ = static_cast<uint64_t>(head().row_bytes);
  high_ = taken_ = reserved_ = 0;
  live_ = live_before_ = 0;
  free_.clear();
  touched_.clear();
}

uint64_t SharedTable::Place(int64_t id, bool* found) const {
  uint64_t tomb = ~0ULL;
  for (uint64_t at = Mix64(static_cast<uint64_t>(id)) & mask_;; at = (at + 1) & mask_) {
    const Word word = cells_[at].word.load(std::memory_order_relaxed);
    *found = false;
    if (word == kEmpty) return tomb != ~0ULL ? tomb : at;
    if (word == kTomb) {
      if (tomb == ~0ULL) tomb = at;
      continue;
    }
    if (cells_[at].id.load(std::memory_order_relaxed) == id) {
      *found = true;
      return at;
    }
  }
}

Status SharedTable::TakeSlot(uint32_t* slot) {
  if (!free_.empty()) {
    *slot = free_.back();
    free_.pop_back();
    return {};
  }
  if (high_ >= head().slots) return {Code::kFull, static_cast<int64_t>(head().slots)};
  const uint64_t end = (high_ + 1) * row_bytes_;
  if (end > reserved_) {
    const uint64_t all = head().slots * row_bytes_;
    const uint64_t to = std::min(all, std::max(end, reserved_ + std::max(kReserveBytes, reserved_ / 8)));
    const Status there = file_.Reserve(head().rows_at + reserved_, head().rows_at + to);
    if (!there.ok()) return there;
    reserved_ = to;
  }
  *slot = static_cast<uint32_t>(high_++);
  return {};
}

bool SharedTable::HasRoom(int64_t ids) const {
  const auto more = static_cast<uint64_t>(ids);
  return high_ - free_.size() + more <= head().slots && taken_ + more <= head().cells / 8 * 7;
}

Status SharedTable::Put(int64_t id, const float* row, uint64_t epoch) {
  bool found = false;
  const uint64_t at = Place(id, &found);
  const Word word = cells_[at].word.load(std::memory_order_relaxed);
  const bool young = found && IsYoung(word);
  uint32_t slot = young ? SlotNow(word) : kNoSlot;
  if (slot == kNoSlot) {
    if (const Status taken = TakeSlot(&slot); !taken.ok()) return taken;
  }
  ActiveKernels().encode(static_cast<Precision>(head().precision), head().dim, row, RowAt(slot));
  if (young && SlotNow(word) == slot) return {};
  const uint32_t before = !found ? kNoSlot : young ? SlotBefore(word) : SlotNow(word);
  if (!young) touched_.push_back({at, word});
  if (!found) {
    if (word == kEmpty) ++taken_;
    cells_[at].id.store(id, std::memory_order_relaxed);
  }
  if (!found || (young && SlotNow(word) == kNoSlot)) ++live_;
  cells_[at].word.store(YoungWord(slot, before, epoch), std::memory_order_release);
  return {};
}

void SharedTable::Remove(int64_t id, uint64_t epoch) {
  bool found = false;
  const uint64_t at = Place(id, &found);
  if (!found) return;
  const Word word = cells_[at].word.load(std::memory_order_relaxed);
  const uint32_t slot = SlotNow(word);
  if (slot == kNoSlot) return;
  --live_;
  if (IsYoung(word)) {  // put in this epoch, so nobody reads the row
    free_.push_back(slot);
    cells_[at].word.store(YoungWord(kNoSlot, SlotBefore(word), epoch), std::memory_order_release);
    return;
  }
  touched_.push_back({at, word});
  cells_[at].word.store(YoungWord(kNoSlot, slot, epoch), std::memory_order_release);
}

Status SharedTable::Fill(int64_t id, const std::byte* encoded) {
  bool found = false;
  const uint64_t at = Place(id, &found);
  uint32_t slot = 0;
  if (const Status taken = TakeSlot(&slot); !taken.ok()) return taken;
  std::memcpy(RowAt(slot), encoded, row_bytes_);
  if (cells_[at].word.load(std::memory_order_relaxed) == kEmpty) ++taken_;
  cells_[at].id.store(id, std::memory_order_relaxed);
  cells_[at].word.store(OldWord(slot), std::memory_order_release);
  live_before_ = ++live_;
  return {};
}

Status SharedTable::Fill(int64_t id, const float* row) {
  std::byte encoded[kPage * 4];
  if (row_bytes_ > sizeof(encoded)) return {Code::kInvalid, head().dim};
  std::memset(encoded, 0, row_bytes_);
  ActiveKernels().encode(static_cast<Precision>(head().precision), head().dim, row, encoded);
  return Fill(id, encoded);
}

void SharedTable::Settle() {
  for (const Touched& one : touched_) {
    const Word word = cells_[one.cell].word.load(std::memory_order_relaxed);
    const uint32_t now = SlotNow(word), before = SlotBefore(word);
    if (before != kNoSlot) free_.push_back(before);
    cells_[one.cell].word.store(now == kNoSlot ? kTomb : OldWord(now), std::memory_order_release);
  }
  touched_.clear();
  live_before_ = live_;
}

void SharedTable::Undo() {
  for (const Touched& one : touched_) {
    const uint32_t now = SlotNow(cells_[one.cell].word.load(std::memory_order_relaxed));
    if (now != kNoSlot) free_.push_back(now);
    // A cell that was empty becomes a tomb: the chains through it may have grown meanwhile.
    cells_[one.cell].word.store(one.before == kEmpty ? kTomb : one.before, std::memory_order_release);
  }
  touched_.clear();
  live_ = live_before_;
}

}  // namespace headrace::shared
