// The members of Table that write, but for the learning step.
#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "table/capture.h"
#include "table/checks.h"
#include "table/guarded.h"
#include "table/table.h"
#include "table/write_locks.h"

namespace headrace {

void Table::DropRow(int64_t id, Cell cell, uint64_t mark) {
  content_->rows.Erase(id, cell);
  if (KeepsHistory()) content_->removals.Add(mark, id);
}

void Table::DropCount(int64_t id, Cell cell, uint64_t mark) {
  content_->pending.Erase(id, cell);
  if (KeepsHistory()) content_->forgotten.Add(mark, id);
}

// After rows went: what is free beyond need goes back to the system.
void Table::GiveBack() {
  content_->rows.Compact();
  content_->pending.Compact();
}

Status Table::Assign(std::span<const int64_t> ids, std::span<const float> rows,
                     std::span<const int64_t> times) {
  const size_t n = ids.size();
  const auto dim = static_cast<size_t>(spec_.dim);
  if (rows.size() != n * dim || (!times.empty() && times.size() != n)) return {Code::kInvalid, 0};
  return Guarded([&]() -> Status {
    if (const Status status = CheckUnique(ids); !status.ok()) return status;
    if (const Status status = CheckFinite(rows, spec_.dim); !status.ok()) return status;
    if (spec_.capacity >= 0 && static_cast<int64_t>(n) > spec_.capacity) return {Code::kFull, spec_.capacity};
    TableStep step;
    StepPart& part = step.parts.emplace_back();
    part.ids = ids;
    part.Hash();
    part.cells.resize(n);
    const WriteLock guard(this, static_cast<int64_t>(n));
    Content& content = *content_;
    RowStore& store = content.rows;
    store.FindAll(ids, part.hashes, part.cells.data(), 0);
    for (size_t i = 0; i < n; ++i) {
      if (part.cells[i] != kNoCell) continue;
      const Cell counter = content.pending.size() > 0 ? content.pending.Find(ids[i]) : kNoCell;
      part.fresh.push_back({static_cast<uint32_t>(i), counter, times.empty() ? 0 : times[i]});
    }
    if (!times.empty() && spec_.times) {
      for (const int64_t time : times) part.newest = std::max(part.newest, time);
    }
    Decide(&step);
    MakeRoom(step, &part);
    ReserveStep(step);
    const uint64_t mark = NextMark();  // from here on nothing can fail
    content.numbers.newest = std::max(content.numbers.newest, part.newest);
    EvictForRoom(step, mark);
    for (size_t i = 0; i < n; ++i) {
      const Cell cell = part.cells[i];
      if (cell == kNoCell) continue;
      store.BeforeChange(ids[i], cell);
      if (!times.empty()) store.SetTime(cell, std::max(store.Time(cell), times[i]));
      store.Touch(cell, mark);
      WriteRow(cell, rows.data() + i * dim);
    }
    for (const StepPart::Absent& one : part.fresh) {
      if (one.counter != kNoCell) content.pending.Erase(ids[one.index], one.counter);
      const Cell cell = store.Take();
      store.Link(ids[one.index], part.hashes[one.index], cell);
      store.SetTime(cell, one.time);
      store.Touch(cell, mark);
      WriteRow(cell, rows.data() + one.index * dim);
      FreshSlots(cell);
    }
    KeepWithinLimits();
    return {};
  });
}

Status Table::Remove(std::span<const int64_t> ids) {
  return Guarded([&]() -> Status {
    const WriteLock guard(this, static_cast<int64_t>(ids.size()));
    Content& content = *content_;
    if (KeepsHistory()) {
      content.removals.Reserve(ids.size(), RowPresent());
      content.forgotten.Reserve(ids.size(), AnyPresent());
    }
    const uint64_t mark = NextMark();
    int64_t removed = 0;
    for (const int64_t id : ids) {
      const Cell cell = content.rows.Find(id);
      if (cell != kNoCell) {
        DropRow(id, cell, mark);
        ++removed;
      }
      const Cell counter = content.pending.Find(id);
      if (counter != kNoCell) DropCount(id, counter, mark);
    }
    GiveBack();
    KeepWithinLimits();
    return {Code::kOk, removed};
  });
}

Status Table::Evict(int64_t before) {
  if (!spec_.times) return {Code::kNoTimes, 0};
  return Guarded([&]() -> Status {
    std::vector<Cell> rows, counts;
    std::array<uint64_t, 3> seen{};
    const auto now = [&] {  // the mark alone is not enough: a table of the same mark may have been loaded
      return std::array{content_->numbers.mark, content_->rows.version(), content_->pending.version()};
    };
    const auto collect = [&] {
      rows.clear();
      counts.clear();
      const Content& content = *content_;
      content.rows.ForEach([&](Cell cell) {
        if (content.rows.Time(cell) < before) rows.push_back(cell);
      });
      content.pending.ForEach([&](Cell cell) {
        if (content.pending.Time(cell) < before) counts.push_back(cell);
      });
      seen = now();
    };
    {
      const std::shared_lock guard(lock_);  // the long scan runs beside readers
      collect();
    }
    const WriteLock guard(this, static_cast<int64_t>(rows.size() + counts.size()));
    if (seen != now()) collect();  // somebody wrote in between
    Content& content = *content_;
    if (KeepsHistory()) {
      content.removals.Reserve(rows.size(), RowPresent());
      content.forgotten.Reserve(counts.size(), AnyPresent());
    }
    const uint64_t mark = NextMark();
    for (const Cell cell : rows) DropRow(content.rows.IdOf(cell), cell, mark);
    for (const Cell cell : counts) DropCount(content.pending.IdOf(cell), cell, mark);
    const auto removed = static_cast<int64_t>(rows.size());
    content.numbers.evicted += removed;
    GiveBack();
    KeepWithinLimits();
    return {Code::kOk, removed};
  });
}

Status Table::Clear() {
  return Guarded([&]() -> Status {
    for (;;) {
      WaitForNoCapture();
      const WriteLock guard(this, 0);
      if (capture_ != nullptr) continue;  // another began meanwhile
      Content empty(spec_, RowBytes());
      Content& content = *content_;
      if (KeepsHistory()) {
        content.removals.Reserve(static_cast<size_t>(content.rows.size()), RowPresent());
        content.forgotten.Reserve(static_cast<size_t>(content.pending.size()), AnyPresent());
      }
      const uint64_t mark = NextMark();
      if (KeepsHistory()) {
        content.rows.ForEach([&](Cell cell) { content.removals.Add(mark, content.rows.IdOf(cell)); });
        content.pending.ForEach([&](Cell cell) { content.forgotten.Add(mark, content.pending.IdOf(cell)); });
      }
      const uint64_t base = content.rows.base();
      content.rows = std::move(empty.rows);
      content.pending = std::move(empty.pending);
      content.rows.Rebase(base);
      content.pending.Rebase(base);
      KeepWithinLimits();
      return {};
    }
  });
}

Status Table::Forget(uint64_t mark) {
  return Guarded([&]() -> Status {
    const WriteLock guard(this, 0);
    Numbers& numbers = content_->numbers;
    if (mark > numbers.mark) return {Code::kFuture, static_cast<int64_t>(numbers.mark)};
    numbers.floor = std::max(numbers.floor, mark);
    content_->removals.Forget(numbers.floor);
    content_->forgotten.Forget(numbers.floor);
    return {};
  });
}

// Counts the most that so many rows can make a capture keep: what changes and what makes room (which goes in
// bunches) twice, as buffers double when they grow, and all frequencies. Reads nothing that a writer changes.
bool Table::MustWait(int64_t rows) const {
  if (capture_ == nullptr || spec_.capture_limit < 0 || rows == 0) return false;
  const Content& content = *content_;
  const auto going = [rows](int64_t limit) { return rows + (limit < 0 ? 0 : limit / 64); };
  int64_t kept = 2 * going(spec_.capacity) * content.rows.record_bytes();
  if (spec_.admission.kind == AdmissionKind::kCount) {
    kept += 2 * going(spec_.pending_limit) * content.pending.record_bytes();
  }
  if (content.rows.keeps_frequencies()) kept += spec_.capacity + 64;
  if (content.sketch) kept += std::min(rows, Sketch::kStripes) * (content.sketch->bytes() / Sketch::kStripes);
  return capture_->bytes() + kept > spec_.capture_limit;
}

void Table::WaitForCapture(int64_t rows) {
  std::unique_lock guard(capture_lock_);
  capture_moved_.wait(guard, [&] { return !MustWait(rows); });
}

void Table::WaitForNoCapture() {
  std::unique_lock guard(capture_lock_);
  capture_moved_.wait(guard, [&] { return capture_ == nullptr; });
}

}  // namespace headrace
