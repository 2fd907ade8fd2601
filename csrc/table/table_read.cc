// The members of Table that read: lookups, changes, export; and Import, which is export backwards.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "table/guarded.h"
#include "table/table.h"

namespace headrace {
namespace {

constexpr size_t kBlock =
    256;  // ids looked up between two copies; their cells fit into the first-level cache

}  // namespace

Status Table::Lookup(std::span<const int64_t> ids, std::span<float> out) const {
  const auto dim = static_cast<size_t>(spec_.dim);
  if (out.size() != ids.size() * dim) return {Code::kInvalid, 0};
  const std::shared_lock guard(lock_);
  const RowStore& rows = content_->rows;
  Cell cells[kBlock];
  for (size_t start = 0; start < ids.size(); start += kBlock) {
    const auto block = ids.subspan(start, std::min(kBlock, ids.size() - start));
    rows.FindAll(block, cells);
    for (size_t i = 0; i < block.size(); ++i) {
      float* row = out.data() + (start + i) * dim;
      if (cells[i] == kNoCell) {
        spec_.init.Fill(block[i], spec_.dim, row);
      } else {
        std::memcpy(row, FloatsOf(rows, cells[i]), dim * sizeof(float));
      }
    }
  }
  return {};
}

Status Table::Initial(std::span<const int64_t> ids, std::span<float> out) const {
  const auto dim = static_cast<size_t>(spec_.dim);
  if (out.size() != ids.size() * dim) return {Code::kInvalid, 0};
  for (size_t i = 0; i < ids.size(); ++i) spec_.init.Fill(ids[i], spec_.dim, out.data() + i * dim);
  return {};
}

Status Table::Contains(std::span<const int64_t> ids, std::span<uint8_t> out) const {
  if (out.size() != ids.size()) return {Code::kInvalid, 0};
  const std::shared_lock guard(lock_);
  for (size_t i = 0; i < ids.size(); ++i) out[i] = content_->rows.Find(ids[i]) != kNoCell ? 1 : 0;
  return {};
}

void Table::Gather(const std::vector<std::pair<int64_t, Cell>>& entries, Changes* out) const {
  const auto dim = static_cast<size_t>(spec_.dim);
  out->ids.resize(entries.size());
  out->rows.resize(entries.size() * dim);
  for (size_t i = 0; i < entries.size(); ++i) {
    out->ids[i] = entries[i].first;
    std::memcpy(out->rows.data() + i * dim, FloatsOf(content_->rows, entries[i].second), dim * sizeof(float));
  }
}

Status Table::ReadRows(Changes* out) const {
  return Guarded([&]() -> Status {
    const std::shared_lock guard(lock_);
    Gather(content_->rows.Sorted(), out);
    return {};
  });
}

Status Table::ReadChanges(uint64_t since, Changes* out) const {
  return Guarded([&]() -> Status {
    const std::shared_lock guard(lock_);
    const Counters& counters = content_->counters;
    if (spec_.serving && since == 0) {
      Gather(content_->rows.Sorted(), out);
      return {};
    }
    if (since < counters.floor || since > counters.mark)
      return {Code::kStale, static_cast<int64_t>(counters.floor)};
    Journal::Since found = content_->journal.Read(since, LiveMarksOf(content_->rows));
    std::vector<std::pair<int64_t, Cell>> entries;
    entries.reserve(found.put.size());
    std::vector<Cell> cells(found.put.size());
    content_->rows.FindAll(found.put, cells.data());
    for (size_t i = 0; i < cells.size(); ++i) entries.emplace_back(found.put[i], cells[i]);
    std::sort(entries.begin(), entries.end());
    Gather(entries, out);
    out->removed = std::move(found.removed);
    return {};
  });
}

Status Table::Export(Parts* out) const {
  return Guarded([&]() -> Status {
    const std::shared_lock guard(lock_);
    const RowStore& rows = content_->rows;
    const RowStore& pending = content_->pending;
    const auto dim = static_cast<size_t>(spec_.dim), slots = static_cast<size_t>(slots_);
    const auto entries = rows.Sorted();
    const size_t n = entries.size();
    for (auto* column : {&out->ids, &out->times, &out->marks}) column->resize(n);
    out->rows.resize(n * dim);
    out->slots.resize(n * slots);
    for (size_t i = 0; i < n; ++i) {
      const auto [id, cell] = entries[i];
      out->ids[i] = id;
      out->times[i] = HeadOf(rows, cell)->time;
      out->marks[i] = static_cast<int64_t>(HeadOf(rows, cell)->mark);
      const float* floats = FloatsOf(rows, cell);
      std::copy(floats, floats + dim, out->rows.data() + i * dim);
      std::copy(floats + dim, floats + dim + slots, out->slots.data() + i * slots);
    }
    for (const auto& [id, cell] : pending.Sorted()) {
      const auto* waiting = reinterpret_cast<const Waiting*>(pending.Data(cell));
      out->pending_ids.push_back(id);
      out->pending_counts.push_back(waiting->count);
      out->pending_times.push_back(waiting->time);
    }
    content_->journal.Removals(LiveMarksOf(rows), &out->removed_ids, &out->removed_marks);
    out->counters = content_->counters;
    return {};
  });
}

Status Table::Import(const Parts& parts) {
  const auto dim = static_cast<size_t>(spec_.dim), slots = static_cast<size_t>(slots_);
  const size_t n = parts.ids.size();
  if (parts.rows.size() != n * dim || parts.slots.size() != n * slots) return {Code::kInvalid, 0};
  return Guarded([&]() -> Status {
    auto content = std::make_unique<Content>(RowBytes());
    std::vector<std::pair<int64_t, int64_t>> history;  // (mark, id)
    content->rows.Reserve(parts.ids);
    content->pending.Reserve(parts.pending_ids);
    const auto floor = static_cast<int64_t>(parts.counters.floor);
    for (size_t i = 0; i < n; ++i) {
      const Cell cell = content->rows.Insert(parts.ids[i]);
      *HeadOf(content->rows, cell) = {parts.times[i], static_cast<uint64_t>(parts.marks[i])};
      float* floats = FloatsOf(content->rows, cell);
      std::copy_n(parts.rows.data() + i * dim, dim, floats);
      std::copy_n(parts.slots.data() + i * slots, slots, floats + dim);
      if (parts.marks[i] > floor) history.emplace_back(parts.marks[i], parts.ids[i]);
    }
    for (size_t i = 0; i < parts.pending_ids.size(); ++i) {
      const Cell cell = content->pending.Insert(parts.pending_ids[i]);
      *WaitingOf(content->pending, cell) = {parts.pending_times[i], parts.pending_counts[i]};
    }
    for (size_t i = 0; i < parts.removed_ids.size(); ++i) {
      history.emplace_back(parts.removed_marks[i], parts.removed_ids[i]);
    }
    std::sort(history.begin(), history.end());
    content->journal.Reserve(history.size(), LiveMarksOf(content->rows));
    for (const auto& [mark, id] : history) content->journal.Add(static_cast<uint64_t>(mark), id);
    content->journal.Forget(parts.counters.floor);
    content->counters = parts.counters;
    const std::unique_lock guard(lock_);
    content_.swap(content);
    return {};
  });
}

Stats Table::GetStats() const {
  const std::shared_lock guard(lock_);
  const Content& content = *content_;
  Stats stats;
  stats.rows = content.rows.size();
  stats.pending = content.pending.size();
  stats.entries = content.journal.entries();
  stats.bytes = content.rows.bytes() + content.pending.bytes() + content.journal.bytes();
  stats.admitted = content.counters.admitted;
  stats.filtered = content.counters.filtered;
  stats.evicted = content.counters.evicted;
  const int64_t places = content.rows.places();
  stats.load = places == 0 ? 0.0 : static_cast<double>(stats.rows) / static_cast<double>(places);
  return stats;
}

Counters Table::GetCounters() const {
  const std::shared_lock guard(lock_);
  return content_->counters;
}

}  // namespace headrace
