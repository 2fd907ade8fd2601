// The members of Table that read: lookups, changes, export; and Import, which is export backwards.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "rules/kernels.h"
#include "table/capture.h"
#include "table/guarded.h"
#include "table/table.h"

namespace headrace {
namespace {

constexpr size_t kBlock = 256;  // ids looked up between two copies; their rows fit into the first-level cache
constexpr int64_t kFetch = 256;

}  // namespace

Status Table::Lookup(std::span<const int64_t> ids, std::span<float> out) const {
  const auto dim = static_cast<size_t>(spec_.dim);
  if (out.size() != ids.size() * dim) return {Code::kInvalid, 0};
  const std::shared_lock guard(lock_);
  const RowStore& rows = content_->rows;
  Cell cells[kBlock];
  uint64_t hashes[kBlock];
  const int64_t fetch = std::min(EncodedBytes(spec_.precision, spec_.dim), kFetch);
  for (size_t start = 0; start < ids.size(); start += kBlock) {
    const auto block = ids.subspan(start, std::min(kBlock, ids.size() - start));
    for (size_t i = 0; i < block.size(); ++i) hashes[i] = IdMap::Hash(block[i]);
    rows.FindAll(block, hashes, cells, fetch);
    for (size_t i = 0; i < block.size(); ++i) {
      float* row = out.data() + (start + i) * dim;
      if (cells[i] == kNoCell) {
        spec_.init.Fill(block[i], spec_.dim, row);
      } else {
        ReadRow(cells[i], row);
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
    ReadRow(entries[i].second, out->rows.data() + i * dim);
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
    const Numbers& numbers = content_->numbers;
    const RowStore& rows = content_->rows;
    if (!KeepsHistory() && since == 0) {
      Gather(rows.Sorted(), out);
      return {};
    }
    if (since < numbers.floor || since > numbers.mark)
      return {Code::kStale, static_cast<int64_t>(numbers.floor)};
    if (!KeepsHistory()) return {};
    std::vector<std::pair<int64_t, Cell>> entries;
    rows.ForEachChanged(since, [&](Cell cell) { entries.emplace_back(rows.IdOf(cell), cell); });
    std::sort(entries.begin(), entries.end());
    Gather(entries, out);
    out->removed = content_->removals.Since(since, RowPresent());
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
    out->frequencies.resize(n);
    out->rows.resize(n * dim);
    out->slots.resize(n * slots);
    for (size_t i = 0; i < n; ++i) {
      const auto [id, cell] = entries[i];
      out->ids[i] = id;
      out->times[i] = rows.Time(cell);
      out->marks[i] = static_cast<int64_t>(rows.Mark(cell));
      out->frequencies[i] = rows.Frequency(cell);
      ReadRow(cell, out->rows.data() + i * dim);
      if (slots > 0) std::copy_n(SlotsOf(cell), slots, out->slots.data() + i * slots);
    }
    for (const auto& [id, cell] : pending.Sorted()) {
      int64_t count;
      std::memcpy(&count, pending.Row(cell), sizeof count);
      out->pending_ids.push_back(id);
      out->pending_counts.push_back(count);
      out->pending_times.push_back(pending.Time(cell));
    }
    for (const Removals::Entry& entry : content_->removals.All(RowPresent())) {
      out->removed_ids.push_back(entry.id);
      out->removed_marks.push_back(static_cast<int64_t>(entry.mark));
    }
    if (content_->sketch) {
      const auto all = std::as_const(*content_->sketch).All();
      out->sketch.assign(all.begin(), all.end());
    }
    out->numbers = content_->numbers;
    return {};
  });
}

Stats Table::GetStats() const {
  const std::shared_lock guard(lock_);
  const Content& content = *content_;
  Stats stats;
  stats.rows = content.rows.size();
  stats.pending = content.pending.size();
  stats.bytes = content.rows.bytes() + content.pending.bytes() + content.removals.bytes() +
                content.forgotten.bytes() + (content.sketch ? content.sketch->bytes() : 0) +
                (capture_ != nullptr ? capture_->bytes() : 0);
  stats.admitted = content.numbers.admitted;
  stats.filtered = content.numbers.filtered;
  stats.evicted = content.numbers.evicted;
  const int64_t places = content.rows.places();
  stats.load = places == 0 ? 0.0 : static_cast<double>(stats.rows) / static_cast<double>(places);
  return stats;
}

Numbers Table::GetNumbers() const {
  const std::shared_lock guard(lock_);
  return content_->numbers;
}

}  // namespace headrace
