// The members of RowStore that know of two tiers: what fits into memory, and which rows are there.
#include <algorithm>
#include <cstring>

#include "cache/disk_failure.h"
#include "table/row_store.h"

namespace headrace {
namespace {

constexpr Cell kNowhere = IdMap::kFurther;  // no cell has this number

}  // namespace

// How many chunks may lie in memory when there are `more` rows. Throws DiskFailure where not even the rest
// fits.
int64_t RowStore::HotLimit(int64_t more) const {
  const TierSpec& spec = tier_->spec();
  const int64_t cells = int64_t{1} << rows_.shift();
  if (spec.hot_rows >= 0) return spec.hot_rows / cells;
  const auto bits =
      static_cast<int64_t>(live_.capacity() * 8 + block_marks_.capacity() * 4 + region_marks_.capacity() * 4);
  const auto whole = [](int64_t bytes) { return bytes + (bytes >= Pages::kLarge ? ColdFile::kPage : 64); };
  const int64_t chunk = whole(heads_.chunk_bytes()) + whole(rows_.chunk_bytes());
  const int64_t left = memory_ - map_.bytes() - bits - tier_->bytes();
  if (left < 0 && more > 0) throw DiskFailure({Code::kTierFull, spec.memory_bytes});
  return std::max<int64_t>(0, left / chunk);
}

// Rows are counted from the moment on that some lie in the file.
void RowStore::Cover(int64_t cells) {
  if (!tier_->covers() && rows_.hot_chunks() == rows_.chunks()) return;
  const int64_t last = (int64_t{1} << rows_.shift()) - 1;
  tier_->Cover(std::max(rows_.room(), (cells + last) & ~last));
}

void RowStore::Fit(int64_t memory_bytes) {
  if (!tier_) return;
  memory_ = memory_bytes;
  for (int pass = 0; pass < 2; ++pass) {  // the first may bring counters, which take memory too
    const int64_t limit = HotLimit(0);
    while (rows_.hot_chunks() > limit) rows_.Cool();
    while (heads_.hot_chunks() > rows_.hot_chunks()) heads_.Cool();
    while (heads_.hot_chunks() < std::min(limit, heads_.chunks())) heads_.Heat();
    while (rows_.hot_chunks() < std::min(limit, rows_.chunks())) rows_.Heat();
    Cover(0);
  }
}

// Two live cells change places. REQUIRES: no Frozen.
void RowStore::Exchange(Cell x, uint64_t hash_x, Cell y, uint64_t hash_y) {
  std::swap_ranges(heads_.At(x), heads_.At(x) + layout_.bytes, heads_.At(y));
  std::swap_ranges(rows_.At(x), rows_.At(x) + row_bytes_, rows_.At(y));
  map_.Move(hash_x, x, kNowhere);  // never two entries of one cell: the map tells them apart by it
  map_.Move(hash_y, y, x);
  map_.Move(hash_x, kNowhere, y);
  if (!keeps_marks()) return;
  Touch(x, Mark(x));
  Touch(y, Mark(y));
}

void RowStore::Tend(const uint64_t* hashes, std::span<const Cell> cells, std::span<const Cell> born) {
  if (!tier_) return;
  const int64_t hot = rows_.hot(), promoted = tier_->promoted();
  const bool covers = tier_->covers();
  for (const Cell cell : cells) {
    if (cell == kNoCell) continue;
    if (!covers || cell < hot) {
      tier_->Hit(cell);
    } else {
      tier_->Miss(cell);
    }
  }
  for (const Cell cell : born) tier_->Set(cell, 1);
  if (!covers) return;
  for (size_t i = 0; frozen_ == nullptr && i < cells.size(); ++i) {
    const Cell cell = cells[i];
    if (cell == kNoCell || cell < hot) continue;
    const Cell victim = tier_->Victim(cell, hot, live_);
    if (victim == kNoCell) continue;
    Exchange(cell, hashes[i], victim, IdMap::Hash(IdOf(victim)));
    tier_->Exchanged(cell, victim);
  }
  if (tier_->promoted() != promoted) ++version_;
  tier_->Age(hot);
}

int64_t RowStore::hot_rows() const {
  if (!tier_) return size_;
  const int64_t hot = rows_.hot();
  int64_t rows = 0;
  for (int64_t block = 0; block < static_cast<int64_t>(live_.size()) && block * 64 < hot; ++block) {
    uint64_t bits = live_[static_cast<size_t>(block)];
    if (hot - block * 64 < 64) bits &= (uint64_t{1} << (hot - block * 64)) - 1;
    rows += std::popcount(bits);
  }
  return rows;
}

int64_t RowStore::Warm(std::span<const int64_t> ids, std::span<const int64_t> counts,
                       std::span<const uint32_t> order) {
  if (!tier_->covers()) return 0;
  const int64_t hot = rows_.hot();
  std::vector<std::pair<uint32_t, Cell>> chosen;  // place in ids, cell
  double total = 1.0;
  for (const uint32_t at : order) {
    const Cell cell = Find(ids[at]);
    if (cell == kNoCell) continue;
    total += static_cast<double>(counts[at]);
    if (static_cast<int64_t>(chosen.size()) < hot) chosen.emplace_back(at, cell);
  }
  std::vector<bool> stays(static_cast<size_t>(hot), false);
  for (const auto& [at, cell] : chosen) {
    if (static_cast<int64_t>(cell) < hot) stays[cell] = true;
  }
  const auto heat = [&](uint32_t at) {  // what half a span between two halvings would have counted
    const double share = static_cast<double>(counts[at]) / total * 5.0 * static_cast<double>(hot);
    return static_cast<uint8_t>(std::clamp(share, 1.0, 255.0));
  };
  int64_t moved = 0, free = 0;
  for (const auto& [at, cell] : chosen) {
    if (static_cast<int64_t>(cell) < hot) {
      tier_->Set(cell, heat(at));
      continue;
    }
    while (free < hot && (stays[static_cast<size_t>(free)] || !IsLive(static_cast<Cell>(free)))) ++free;
    if (free == hot) continue;
    const auto place = static_cast<Cell>(free++);
    Exchange(cell, IdMap::Hash(ids[at]), place, IdMap::Hash(IdOf(place)));
    tier_->Exchanged(cell, place);
    tier_->Set(place, heat(at));
    ++moved;
  }
  ++version_;
  return moved;
}

void RowStore::FetchCold(const int64_t* ids, const uint64_t* hashes, size_t count) const {
  std::vector<uintptr_t> pages;
  ColdPages(ids, hashes, count, &pages);
  ColdFile::Fetch(&pages);
}

void RowStore::ColdPages(const int64_t* ids, const uint64_t* hashes, size_t count,
                         std::vector<uintptr_t>* pages) const {
  if (!tier_ || !tier_->FetchAhead()) return;
  const int64_t hot = rows_.hot();
  const auto add = [&](const std::byte* at, int64_t bytes) {
    const auto first = reinterpret_cast<uintptr_t>(at);
    const uintptr_t last = (first + static_cast<uintptr_t>(bytes) - 1) / ColdFile::kPage;
    for (uintptr_t page = first / ColdFile::kPage; page <= last; ++page) pages->push_back(page);
  };
  constexpr size_t kAhead = 16;
  for (size_t i = 0; i < count + kAhead; ++i) {
    const auto hash_of = [&](size_t k) { return hashes != nullptr ? hashes[k] : IdMap::Hash(ids[k]); };
    if (i < count) map_.Fetch(hash_of(i));
    if (i < kAhead) continue;
    const Cell cell = map_.Guess<ShortLine>(hash_of(i - kAhead));
    if (cell >= IdMap::kFurther || static_cast<int64_t>(cell) < hot) continue;
    add(heads_.At(cell), layout_.bytes);
    add(rows_.At(cell), row_bytes_);
  }
}

}  // namespace headrace
