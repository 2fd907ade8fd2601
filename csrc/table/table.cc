#include "table/table.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "table/checks.h"
#include "table/guarded.h"

namespace headrace {
namespace {

constexpr size_t kAhead = 8;  // rows fetched ahead of the row rule

bool Fits(size_t got, size_t rows, int64_t width) {
  return got == rows * static_cast<size_t>(width);
}

}  // namespace

Table::Table(const TableSpec& spec) : spec_(spec) {
  if (spec_.serving) spec_.admission = Admission{};
  slots_ = spec_.serving ? 0 : spec_.rule.SlotCount(spec_.dim);
  content_ = std::make_unique<Content>(RowBytes());
}

Journal::LiveMarks Table::LiveMarksOf(const RowStore& rows) {
  return [&rows](std::span<const int64_t> ids, uint64_t* marks) {
    Cell cells[64];
    for (size_t start = 0; start < ids.size(); start += std::size(cells)) {
      const auto block = ids.subspan(start, std::min(std::size(cells), ids.size() - start));
      rows.FindAll(block, cells);
      for (size_t i = 0; i < block.size(); ++i) {
        marks[start + i] = cells[i] == kNoCell ? 0 : HeadOf(rows, cells[i])->mark;
      }
    }
  };
}

uint64_t Table::NextMark() {
  Counters& counters = content_->counters;
  ++counters.mark;
  if (spec_.serving) counters.floor = counters.mark;  // a serving table keeps no history
  return counters.mark;
}

bool Table::Admits(int64_t id, int64_t count, Cell waiting, uint64_t mark) const {
  switch (spec_.admission.kind) {
    case AdmissionKind::kAll:
      return true;
    case AdmissionKind::kProbability:
      return spec_.admission.Admits(id, count, mark);
    case AdmissionKind::kCount:
      break;
  }
  const RowStore& pending = content_->pending;
  const int64_t seen =
      waiting == kNoCell ? 0 : reinterpret_cast<const Waiting*>(pending.Data(waiting))->count;
  return count >= spec_.admission.occurrences - seen;  // the sum might not fit
}

void Table::MakePlan(const Gradients& step, uint64_t mark, Plan* plan) const {
  const size_t n = step.ids.size();
  const Content& content = *content_;
  plan->cells.resize(n);
  plan->waiting.assign(n, kNoCell);
  plan->admitted.assign(n, 0);
  content.rows.FindAll(step.ids, plan->cells.data());
  for (size_t i = 0; i < n; ++i) {
    if (plan->cells[i] != kNoCell) continue;
    if (content.pending.size() > 0) plan->waiting[i] = content.pending.Find(step.ids[i]);
    plan->admitted[i] = Admits(step.ids[i], step.counts[i], plan->waiting[i], mark) ? 1 : 0;
    if (plan->admitted[i]) {
      plan->fresh.push_back(step.ids[i]);
    } else if (plan->waiting[i] == kNoCell && spec_.admission.kind == AdmissionKind::kCount) {
      plan->counted.push_back(step.ids[i]);
    }
  }
}

Status Table::Update(const Gradients& step) {
  const size_t n = step.ids.size();
  if (!Fits(step.grads.size(), n, spec_.dim) || step.counts.size() != n || step.times.size() != n) {
    return {Code::kInvalid, 0};
  }
  if (spec_.serving) return {Code::kServing, 0};
  return Guarded([&]() -> Status {
    if (const Status status = CheckUnique(step.ids); !status.ok()) return status;
    if (const Status status = CheckCounts(step.counts); !status.ok()) return status;
    if (const Status status = CheckFinite(step.grads, spec_.dim); !status.ok()) return status;
    const std::unique_lock guard(lock_);
    Plan plan;
    MakePlan(step, content_->counters.mark + 1, &plan);
    content_->rows.Reserve(plan.fresh);
    content_->pending.Reserve(plan.counted);
    content_->journal.Reserve(n, LiveMarksOf(content_->rows));
    Learn(step, plan, NextMark());  // from here on nothing can fail
    return {};
  });
}

void Table::Learn(const Gradients& step, const Plan& plan, uint64_t mark) {
  RowStore& rows = content_->rows;
  const size_t n = step.ids.size();
  for (size_t i = 0; i < n; ++i) {
    if (i + kAhead < n && plan.cells[i + kAhead] != kNoCell) {
      const std::byte* ahead = rows.Data(plan.cells[i + kAhead]);
      __builtin_prefetch(ahead, 1);
      __builtin_prefetch(ahead + 64, 1);
    }
    Cell cell = plan.cells[i];
    if (cell == kNoCell) {
      if (!plan.admitted[i]) {
        ++content_->counters.filtered;
        if (spec_.admission.kind == AdmissionKind::kCount) {
          Wait(step.ids[i], plan.waiting[i], step.counts[i], step.times[i]);
        }
        continue;
      }
      int64_t time = step.times[i];
      if (plan.waiting[i] != kNoCell) {
        time = std::max(time, WaitingOf(content_->pending, plan.waiting[i])->time);
        content_->pending.Erase(step.ids[i], plan.waiting[i]);
      }
      cell = InsertRow(step.ids[i], time);
      spec_.init.Fill(step.ids[i], spec_.dim, FloatsOf(rows, cell));
      ++content_->counters.admitted;
    }
    Head* head = HeadOf(rows, cell);
    head->time = std::max(head->time, step.times[i]);
    head->mark = mark;
    float* row = FloatsOf(rows, cell);
    spec_.rule.Step(spec_.dim, row, row + spec_.dim, step.grads.data() + i * static_cast<size_t>(spec_.dim));
    content_->journal.Add(mark, step.ids[i]);
  }
}

void Table::Wait(int64_t id, Cell waiting, int64_t count, int64_t time) {
  RowStore& pending = content_->pending;
  if (waiting == kNoCell) {
    *WaitingOf(pending, pending.Insert(id)) = {time, count};
    return;
  }
  Waiting* entry = WaitingOf(pending, waiting);
  entry->count += count;  // stays below the threshold, else the id would have been admitted
  entry->time = std::max(entry->time, time);
}

Cell Table::InsertRow(int64_t id, int64_t time) {
  RowStore& rows = content_->rows;
  const Cell cell = rows.Insert(id);
  *HeadOf(rows, cell) = {time, 0};
  if (slots_ > 0) spec_.rule.FreshSlots(spec_.dim, FloatsOf(rows, cell) + spec_.dim);
  return cell;
}

void Table::DropRow(int64_t id, Cell cell, uint64_t mark) {
  content_->rows.Erase(id, cell);
  if (!spec_.serving) content_->journal.Add(mark, id);
}

void Table::ForgetCount(int64_t id) {
  if (content_->pending.size() == 0) return;
  const Cell cell = content_->pending.Find(id);
  if (cell != kNoCell) content_->pending.Erase(id, cell);
}

Status Table::Assign(std::span<const int64_t> ids, std::span<const float> rows,
                     std::span<const int64_t> times) {
  const size_t n = ids.size();
  const auto dim = static_cast<size_t>(spec_.dim);
  if (!Fits(rows.size(), n, spec_.dim) || (!times.empty() && times.size() != n)) return {Code::kInvalid, 0};
  return Guarded([&]() -> Status {
    if (const Status status = CheckUnique(ids); !status.ok()) return status;
    if (const Status status = CheckFinite(rows, spec_.dim); !status.ok()) return status;
    const std::unique_lock guard(lock_);
    RowStore& store = content_->rows;
    std::vector<Cell> cells(n);
    std::vector<int64_t> fresh;
    store.FindAll(ids, cells.data());
    for (size_t i = 0; i < n; ++i) {
      if (cells[i] == kNoCell) fresh.push_back(ids[i]);
    }
    store.Reserve(fresh);
    if (!spec_.serving) content_->journal.Reserve(n, LiveMarksOf(store));
    const uint64_t mark = NextMark();
    for (size_t i = 0; i < n; ++i) {
      Cell cell = cells[i];
      if (cell == kNoCell) {
        ForgetCount(ids[i]);
        cell = InsertRow(ids[i], times.empty() ? 0 : times[i]);
      } else if (!times.empty()) {
        HeadOf(store, cell)->time = std::max(HeadOf(store, cell)->time, times[i]);
      }
      HeadOf(store, cell)->mark = mark;
      std::memcpy(FloatsOf(store, cell), rows.data() + i * dim, dim * sizeof(float));
      if (!spec_.serving) content_->journal.Add(mark, ids[i]);
    }
    return {};
  });
}

Status Table::Remove(std::span<const int64_t> ids) {
  return Guarded([&]() -> Status {
    const std::unique_lock guard(lock_);
    if (!spec_.serving) content_->journal.Reserve(ids.size(), LiveMarksOf(content_->rows));
    const uint64_t mark = NextMark();
    int64_t removed = 0;
    for (const int64_t id : ids) {
      const Cell cell = content_->rows.Find(id);
      if (cell != kNoCell) {
        DropRow(id, cell, mark);
        ++removed;
      }
      ForgetCount(id);
    }
    return {Code::kOk, removed};
  });
}

Status Table::Evict(int64_t before) {
  return Guarded([&]() -> Status {
    std::vector<int64_t> rows, counts;
    uint64_t seen = 0;
    const auto collect = [&] {
      rows.clear();
      counts.clear();
      const Content& content = *content_;
      content.rows.ForEach([&](Cell cell) {
        if (HeadOf(content.rows, cell)->time < before) rows.push_back(content.rows.IdOf(cell));
      });
      content.pending.ForEach([&](Cell cell) {
        const auto* waiting = reinterpret_cast<const Waiting*>(content.pending.Data(cell));
        if (waiting->time < before) counts.push_back(content.pending.IdOf(cell));
      });
      seen = content.counters.mark;
    };
    {
      const std::shared_lock guard(lock_);  // the long scan runs beside readers
      collect();
    }
    const std::unique_lock guard(lock_);
    if (seen != content_->counters.mark) collect();  // somebody wrote in between
    if (!spec_.serving) content_->journal.Reserve(rows.size(), LiveMarksOf(content_->rows));
    const uint64_t mark = NextMark();
    for (const int64_t id : rows) DropRow(id, content_->rows.Find(id), mark);
    for (const int64_t id : counts) ForgetCount(id);
    const auto removed = static_cast<int64_t>(rows.size());
    content_->counters.evicted += removed;
    return {Code::kOk, removed};
  });
}

Status Table::Clear() {
  return Guarded([&]() -> Status {
    const std::unique_lock guard(lock_);
    Content empty(RowBytes());
    if (!spec_.serving) {
      content_->journal.Reserve(static_cast<size_t>(content_->rows.size()), LiveMarksOf(content_->rows));
    }
    const uint64_t mark = NextMark();
    if (!spec_.serving) {
      content_->rows.ForEach([&](Cell cell) { content_->journal.Add(mark, content_->rows.IdOf(cell)); });
    }
    content_->rows = std::move(empty.rows);
    content_->pending = std::move(empty.pending);
    return {};
  });
}

Status Table::Forget(uint64_t mark) {
  return Guarded([&]() -> Status {
    const std::unique_lock guard(lock_);
    Counters& counters = content_->counters;
    if (mark > counters.mark) return {Code::kFuture, static_cast<int64_t>(counters.mark)};
    counters.floor = std::max(counters.floor, mark);
    content_->journal.Forget(counters.floor);
    return {};
  });
}

}  // namespace headrace
