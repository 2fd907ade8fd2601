#include "table/capture.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "rules/kernels.h"
#include "table/guarded.h"
#include "table/write_locks.h"

namespace headrace {
namespace {

constexpr size_t kAhead = 16;  // cells fetched ahead of their copy

std::vector<Cell> ChangedAfter(const RowStore& store, int64_t since) {
  std::vector<Cell> cells;
  if (since >= 0)
    store.ForEachChanged(static_cast<uint64_t>(since), [&](Cell cell) { cells.push_back(cell); });
  return cells;
}

template <typename T>
T Read(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Pointers to records of `width` bytes that begin with an id, ids ascending.
std::vector<const std::byte*> SortedById(const std::vector<std::byte>& records, int64_t width) {
  std::vector<std::pair<int64_t, const std::byte*>> all;
  all.reserve(records.size() / static_cast<size_t>(width));
  for (size_t at = 0; at < records.size(); at += static_cast<size_t>(width)) {
    all.emplace_back(Read<int64_t>(records.data() + at), records.data() + at);
  }
  std::sort(all.begin(), all.end());
  std::vector<const std::byte*> sorted(all.size());
  std::transform(all.begin(), all.end(), sorted.begin(), [](const auto& one) { return one.second; });
  return sorted;
}

void Empty(Block* block, int stripe) {
  block->stripe = stripe;
  block->ids.clear();
  block->times.clear();
  block->marks.clear();
  block->frequencies.clear();
  block->rows.clear();
  block->slots.clear();
  for (auto* list : {&block->pending_ids, &block->pending_counts, &block->pending_times, &block->removed_ids,
                     &block->removed_marks, &block->forgotten_ids}) {
    list->clear();
  }
  block->sketch.clear();
}

}  // namespace

Capture::Capture(Table* table, int64_t since)
    : table_(table),
      since_(since),
      layout_(table->content_->rows.layout()),
      counter_layout_(table->content_->pending.layout()),
      row_bytes_(table->RowBytes()),
      embedding_bytes_(EncodedBytes(table->spec_.precision, table->spec_.dim)) {
  Table::Content& content = *table->content_;
  base_ = content.rows.base();
  numbers_ = content.numbers;
  const bool all = since < 0;
  rows_ = std::make_unique<Frozen>(content.rows, ChangedAfter(content.rows, since), all);
  counters_ = std::make_unique<Frozen>(content.pending, ChangedAfter(content.pending, since), all);
  const auto after = static_cast<uint64_t>(std::max<int64_t>(since, 0));
  for (const Removals::Entry& entry : content.removals.All(table->RowPresent())) {
    if (all || entry.mark > after) {
      removals_[static_cast<size_t>(StripeOf(IdMap::Hash(entry.id)))].push_back(entry);
      fixed_ += static_cast<int64_t>(sizeof entry);
    }
  }
  if (!all) {
    for (const int64_t id : content.forgotten.Since(after, table->AnyPresent())) {
      forgotten_[static_cast<size_t>(StripeOf(IdMap::Hash(id)))].push_back(id);
      fixed_ += static_cast<int64_t>(sizeof id);
    }
  }
  for (size_t stripe = 0; stripe < sketch_wanted_.size(); ++stripe) {
    sketch_wanted_[stripe] = content.sketch && (all || content.sketch_marks[stripe] > after);
  }
  content.rows.SetFrozen(rows_.get());
  content.pending.SetFrozen(counters_.get());
}

Capture::~Capture() {
  End();
}

Layout Capture::layout() const {
  Layout layout;
  layout.row_bytes = embedding_bytes_;
  layout.slots = table_->slots_;
  layout.has_times = layout_.time_at >= 0;
  layout.has_marks = layout_.mark_at >= 0;
  layout.has_frequencies = layout_.frequency_at >= 0;
  layout.incremental = since_ >= 0;
  layout.since = static_cast<uint64_t>(std::max<int64_t>(since_, 0));
  return layout;
}

void Capture::End() {
  if (ended_) return;
  ended_ = true;
  {
    const std::unique_lock guard(table_->lock_);
    const std::unique_lock also(table_->capture_lock_);
    table_->content_->rows.SetFrozen(nullptr);
    table_->content_->pending.SetFrozen(nullptr);
    table_->capture_ = nullptr;
  }
  table_->capture_moved_.notify_all();
}

void Capture::KeepSketch(int stripe, const Sketch& sketch) noexcept {
  auto& kept = sketches_[static_cast<size_t>(stripe)];
  if (stripe < next_ || !sketch_wanted_[static_cast<size_t>(stripe)] || !kept.empty()) return;
  try {
    const auto bytes = std::as_bytes(sketch.StripeBytes(stripe));
    kept.assign(bytes.begin(), bytes.end());
    kept_.fetch_add(static_cast<int64_t>(bytes.size()));
  } catch (const std::bad_alloc&) {
    Spoil();
  }
}

void Capture::KeepFrequencies() noexcept {
  if (!frequencies_.empty()) return;
  const RowStore& rows = table_->content_->rows;
  try {
    frequencies_.assign(rows.live().size() * 64, 0);
    rows.ForEach([&](Cell cell) { frequencies_[cell] = rows.Frequency(cell); });
    kept_.fetch_add(static_cast<int64_t>(frequencies_.size()));
    rows_->UseFrequencies(&frequencies_, layout_.frequency_at);
  } catch (const std::bad_alloc&) {
    Spoil();
  }
}

// Copies [head][row] of every cell of the stripe that is the capture's. REQUIRES: nothing writes to the
// store.
void Capture::Copy(const RowStore& store, Frozen* frozen, int stripe, std::vector<std::byte>* records) const {
  std::vector<std::pair<Cell, uint64_t>> cells;  // with the hash, where it is known
  if (since_ >= 0) {
    for (const Cell cell : frozen->Listed(stripe)) cells.emplace_back(cell, 0);
  } else {
    store.ForEachInStripe(stripe, [&](Cell cell, uint64_t hash) { cells.emplace_back(cell, hash); });
  }
  *records = frozen->Take(stripe);
  const size_t width = static_cast<size_t>(store.record_bytes()),
               heads = static_cast<size_t>(store.layout().bytes);
  size_t at = records->size();
  records->resize(at + cells.size() * width);
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i + kAhead < cells.size()) store.FetchForRead(cells[i + kAhead].first);
    const auto [cell, hash] = cells[i];
    if (frozen->Done(cell)) continue;
    std::byte* to = records->data() + at;
    store.CopyHead(cell, hash, to);
    std::memcpy(to + heads, store.Row(cell), width - heads);
    if (store.keeps_frequencies()) {
      to[store.layout().frequency_at] = std::byte{FrequencyOf(cell, store.Frequency(cell))};
    }
    at += width;
  }
  records->resize(at);
}

void Capture::EmitRows(const std::vector<std::byte>& records, Block* out) const {
  const size_t heads = static_cast<size_t>(layout_.bytes), floats = static_cast<size_t>(table_->slots_);
  const size_t slots_at = static_cast<size_t>(row_bytes_) - floats * sizeof(float);
  const auto sorted = SortedById(records, layout_.bytes + row_bytes_);
  const uint64_t floor = std::max<uint64_t>(numbers_.floor, 1);
  out->rows.resize(sorted.size() * static_cast<size_t>(embedding_bytes_));
  out->slots.resize(sorted.size() * floats);
  for (size_t i = 0; i < sorted.size(); ++i) {
    const std::byte* head = sorted[i];
    out->ids.push_back(Read<int64_t>(head));
    if (layout_.time_at >= 0) out->times.push_back(Read<int64_t>(head + layout_.time_at));
    if (layout_.mark_at >= 0) {
      const uint64_t mark = base_ + Read<uint32_t>(head + layout_.mark_at);
      out->marks.push_back(static_cast<int64_t>(std::max(mark, floor)));
    }
    if (layout_.frequency_at >= 0) out->frequencies.push_back(Read<uint8_t>(head + layout_.frequency_at));
    const std::byte* row = head + heads;
    const auto embedding = static_cast<size_t>(embedding_bytes_);
    std::memcpy(out->rows.data() + i * embedding, row, embedding);
    if (floats > 0) std::memcpy(out->slots.data() + i * floats, row + slots_at, floats * sizeof(float));
  }
}

void Capture::EmitCounters(const std::vector<std::byte>& records, Block* out) const {
  for (const std::byte* head :
       SortedById(records, counter_layout_.bytes + static_cast<int64_t>(sizeof(int64_t)))) {
    out->pending_ids.push_back(Read<int64_t>(head));
    out->pending_counts.push_back(Read<int64_t>(head + counter_layout_.bytes));
    out->pending_times.push_back(counter_layout_.time_at >= 0 ? Read<int64_t>(head + counter_layout_.time_at)
                                                              : 0);
  }
}

Status Capture::Next(Block* out, bool* done) {
  *done = next_ >= kStripes;
  if (*done) return {};
  return Guarded([&]() -> Status {
    const int stripe = next_;
    const auto place = static_cast<size_t>(stripe);
    std::vector<std::byte> rows, counters, sketch;
    {
      const std::shared_lock guard(table_->lock_);
      const Table::Content& content = *table_->content_;
      Copy(content.rows, rows_.get(), stripe, &rows);
      Copy(content.pending, counters_.get(), stripe, &counters);
      if (sketch_wanted_[place]) {
        sketch = std::move(sketches_[place]);
        kept_.fetch_sub(static_cast<int64_t>(sketch.size()));
        if (sketch.empty()) {
          const auto bytes = std::as_bytes(std::as_const(*content.sketch).StripeBytes(stripe));
          sketch.assign(bytes.begin(), bytes.end());
        }
      }
      ++next_;
    }
    {
      const std::unique_lock guard(table_->capture_lock_);
    }
    table_->capture_moved_.notify_all();
    if (failed_.load() || rows_->failed() || counters_->failed()) return {Code::kNoMemory, 0};
    Empty(out, stripe);
    EmitRows(rows, out);
    EmitCounters(counters, out);
    for (const Removals::Entry& entry : removals_[place]) {
      out->removed_ids.push_back(entry.id);
      out->removed_marks.push_back(static_cast<int64_t>(entry.mark));
    }
    out->forgotten_ids = forgotten_[place];
    out->sketch = std::move(sketch);
    return {};
  });
}

Status Capture::Close(Numbers* out) {
  *out = numbers_;
  End();
  return {};
}

Status Table::Begin(int64_t since, std::unique_ptr<Capture>* out) {
  return Guarded([&]() -> Status {
    const std::unique_lock guard(lock_);
    if (capture_ != nullptr) return {Code::kBusy, 0};
    if (since >= 0) {
      const Numbers& numbers = content_->numbers;
      if (!KeepsHistory()) return {Code::kNoHistory, 0};
      const uint64_t floor = std::max(numbers.floor, content_->forgotten.floor());
      if (static_cast<uint64_t>(since) < floor || static_cast<uint64_t>(since) > numbers.mark) {
        return {Code::kStale, static_cast<int64_t>(floor)};
      }
    }
    auto capture = std::make_unique<Capture>(this, since);
    const std::unique_lock also(capture_lock_);
    capture_ = capture.get();
    *out = std::move(capture);
    return {};
  });
}

}  // namespace headrace
