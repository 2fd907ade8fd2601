#include "table/row_store.h"

#include <algorithm>
#include <atomic>

namespace headrace {
namespace {

constexpr int64_t kChunkBytes = int64_t{2} << 20;
constexpr int kMaxShift = 18;

int ShiftFor(int64_t cell_bytes) {
  int shift = 0;
  while (shift < kMaxShift && (int64_t{2} << shift) * cell_bytes <= kChunkBytes) ++shift;
  return shift;
}

// Chunks of a store with a tier are so small that memory is used to a few parts in a hundred.
int TierShift(const TierSpec& tier, int64_t record_bytes, int64_t cell_bytes) {
  const int64_t hot = tier.hot_rows >= 0 ? tier.hot_rows : tier.memory_bytes / record_bytes;
  const int most = ShiftFor(cell_bytes);
  int shift = tier.hot_rows >= 0 ? 0 : 4;
  while (shift < most && (int64_t{32} << shift) < hot) ++shift;
  return shift;
}

// Whether heads would hold nothing but ids; free rows must have room for the free list then.
bool NeedsNoHeads(const HeadLayout& layout, int64_t row_bytes) {
  return layout.bytes == static_cast<int32_t>(sizeof(int64_t)) &&
         row_bytes >= static_cast<int64_t>(sizeof(Cell));
}

// Several threads may raise the mark of a block at once, all to the same value.
void Raise(uint32_t* mark, uint32_t to) {
  std::atomic_ref<uint32_t> shared(*mark);
  if (shared.load(std::memory_order_relaxed) < to) shared.store(to, std::memory_order_relaxed);
}

}  // namespace

HeadLayout::HeadLayout(bool times, bool marks, bool frequencies) {
  const auto field = [this](bool kept, int32_t size) {
    if (!kept) return -1;
    const int32_t at = bytes;
    bytes += size;
    return at;
  };
  time_at = field(times, 8);
  mark_at = field(marks, 4);
  frequency_at = field(frequencies, 1);
}

RowStore::RowStore(HeadLayout layout, int64_t row_bytes, const TierSpec& tier)
    : layout_(layout),
      row_bytes_(row_bytes),
      fetch_bytes_(std::min(row_bytes, kMaxFetch)),
      tier_(tier.used() ? std::make_unique<Tier>(tier) : nullptr),
      memory_(tier.memory_bytes),
      heads_(layout.bytes, tier_ ? TierShift(tier, record_bytes(), row_bytes) : ShiftFor(layout.bytes)),
      rows_(row_bytes, tier_ ? TierShift(tier, record_bytes(), row_bytes) : ShiftFor(row_bytes)),
      map_(!tier_ && NeedsNoHeads(layout, row_bytes)) {
  if (tier_) {
    heads_.UseFile(tier_->file());
    rows_.UseFile(tier_->file());
  }
  static std::atomic<uint64_t> stores{
      0};  // no two stores share a version, so content that was swapped is noticed
  version_ = stores.fetch_add(1) << 40;
}

void RowStore::FindAll(std::span<const int64_t> ids, const uint64_t* hashes, Cell* cells,
                       int64_t fetch_bytes) const {
  FindRows(ids, hashes, cells, nullptr, fetch_bytes);
}

void RowStore::FindRows(std::span<const int64_t> ids, const uint64_t* hashes, Cell* cells, const float** rows,
                        int64_t fetch_bytes) const {
  FetchCold(ids.data(), hashes, ids.size());
  const auto find = [&](auto finder) {
    for (size_t i = 0; i < ids.size(); ++i) finder.Push();
    finder.Finish();
  };
  if (has_heads()) {
    find(RowFinder<true>(*this, ids.data(), hashes, cells, rows, fetch_bytes));
  } else {
    find(RowFinder<false>(*this, ids.data(), hashes, cells, rows, fetch_bytes));
  }
}

void RowStore::FindAll(std::span<const int64_t> ids, Cell* cells) const {
  uint64_t hashes[256];
  for (size_t start = 0; start < ids.size(); start += std::size(hashes)) {
    const auto block = ids.subspan(start, std::min(std::size(hashes), ids.size() - start));
    for (size_t i = 0; i < block.size(); ++i) hashes[i] = IdMap::Hash(block[i]);
    FindAll(block, hashes, cells + start, 0);
  }
}

void RowStore::Touch(Cell cell, uint64_t mark) {
  if (!keeps_marks()) return;
  const auto relative = static_cast<uint32_t>(mark - base_);
  Store(cell, layout_.mark_at, relative);
  Raise(&block_marks_[cell >> kBlockBits], relative);
  Raise(&region_marks_[cell >> (2 * kBlockBits)], relative);
}

void RowStore::ReserveCells(int64_t count) {
  const int64_t wanted = end_ + std::max<int64_t>(count - free_count_, 0);
  if (tier_) Cover(wanted);  // before memory is looked at: counters take some
  const int64_t limit = tier_ ? HotLimit(count) : Cells::kNoLimit;
  if (has_heads()) heads_.Grow(wanted, limit);
  rows_.Grow(wanted, limit);
  if (tier_) Cover(wanted);
  const auto blocks = static_cast<size_t>((wanted + 63) / 64);
  if (live_.size() < blocks) {
    if (keeps_marks()) {
      block_marks_.resize(blocks, 0);
      region_marks_.resize((blocks + 63) / 64, 0);
    }
    live_.resize(blocks, 0);
  }
}

void RowStore::Reserve(std::span<const int64_t> ids) {
  std::array<uint32_t, IdMap::kStripeCount> more{};
  for (const int64_t id : ids) ++more[static_cast<size_t>(StripeOf(IdMap::Hash(id)))];
  for (int stripe = 0; stripe < IdMap::kStripeCount; ++stripe) {
    if (more[static_cast<size_t>(stripe)] != 0) map_.Reserve(stripe, more[static_cast<size_t>(stripe)]);
  }
  ReserveCells(static_cast<int64_t>(ids.size()));  // last: a tier counts the map
}

Cell RowStore::Take() {
  Cell cell = free_;
  if (cell != kNoCell) {
    std::memcpy(&free_, Link(cell), sizeof free_);
    --free_count_;
  } else {
    cell = static_cast<Cell>(end_++);
  }
  live_[cell >> kBlockBits] |= uint64_t{1} << (cell & 63);
  ++size_;
  ++version_;
  return cell;
}

void RowStore::Link(int64_t id, uint64_t hash, Cell cell) {
  if (has_heads()) {
    std::memset(heads_.At(cell), 0, static_cast<size_t>(layout_.bytes));
    Store(cell, 0, id);
  }
  map_.Insert(hash, cell);
}

void RowStore::Erase(int64_t id, Cell cell) {
  BeforeChange(id, cell);
  map_.Erase(IdMap::Hash(id), cell);
  std::memcpy(Link(cell), &free_, sizeof free_);
  free_ = cell;
  ++free_count_;
  --size_;
  ++version_;
  live_[cell >> kBlockBits] &= ~(uint64_t{1} << (cell & 63));
}

// Copies a cell; the map is the caller's to tell.
void RowStore::MoveCell(Cell from, Cell to) {
  if (has_heads()) std::memcpy(heads_.At(to), heads_.At(from), static_cast<size_t>(layout_.bytes));
  std::memcpy(rows_.At(to), rows_.At(from), static_cast<size_t>(row_bytes_));
  live_[from >> kBlockBits] &= ~(uint64_t{1} << (from & 63));
  live_[to >> kBlockBits] |= uint64_t{1} << (to & 63);
  if (keeps_marks()) Touch(to, Mark(to));
}

void RowStore::Compact() {
  if (frozen_ != nullptr || free_count_ <= end_ / 4 + 64) return;
  Cell to = 0;
  for (int stripe = 0; stripe < IdMap::kStripeCount; ++stripe) {
    map_.ForEach(stripe, [&](Cell& cell, uint64_t) {
      if (static_cast<int64_t>(cell) < size_) return;
      while (IsLive(to)) ++to;
      MoveCell(cell, to);
      cell = to;
    });
  }
  end_ = size_;
  free_ = kNoCell;
  free_count_ = 0;
  ++version_;
  if (has_heads()) heads_.Shrink(end_);
  rows_.Shrink(end_);
  const auto blocks = static_cast<size_t>((end_ + 63) / 64);
  live_.resize(blocks);
  live_.shrink_to_fit();
  if (keeps_marks()) {
    block_marks_.resize(blocks);
    region_marks_.resize((blocks + 63) / 64);
  }
  map_.Shrink();
}

void RowStore::Rebase(uint64_t base) {
  const uint64_t forward = base - base_;
  std::fill(block_marks_.begin(), block_marks_.end(), 0);
  std::fill(region_marks_.begin(), region_marks_.end(), 0);
  ForEach([&](Cell cell) {
    const uint64_t mark = Load<uint32_t>(cell, layout_.mark_at);
    const auto relative = static_cast<uint32_t>(mark > forward ? mark - forward : 0);
    Store(cell, layout_.mark_at, relative);
    Raise(&block_marks_[cell >> kBlockBits], relative);
    Raise(&region_marks_[cell >> (2 * kBlockBits)], relative);
  });
  base_ = base;
}

std::vector<std::pair<int64_t, Cell>> RowStore::Sorted() const {
  std::vector<std::pair<int64_t, Cell>> all;
  all.reserve(static_cast<size_t>(size_));
  if (has_heads()) {
    ForEach([&](Cell cell) { all.emplace_back(IdOf(cell), cell); });
  } else {
    for (int stripe = 0; stripe < IdMap::kStripeCount; ++stripe) {
      map_.ForEach(stripe, [&](Cell cell, uint64_t hash) {
        all.emplace_back(static_cast<int64_t>(Unmix64(hash)), cell);
      });
    }
  }
  std::sort(all.begin(), all.end());
  return all;
}

int64_t RowStore::bytes() const {
  const auto bits =
      static_cast<int64_t>(live_.capacity() * 8 + block_marks_.capacity() * 4 + region_marks_.capacity() * 4);
  return map_.bytes() + heads_.bytes() + rows_.bytes() + bits + (tier_ ? tier_->bytes() : 0);
}

}  // namespace headrace
