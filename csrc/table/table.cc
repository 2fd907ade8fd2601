// The phases of one step, and what every write shares.
#include "table/table.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "rules/kernels.h"
#include "table/capture.h"
#include "table/checks.h"
#include "table/guarded.h"
#include "table/write_locks.h"

namespace headrace {
namespace {

constexpr size_t kAhead = 16;                             // rows fetched ahead of the row rule
constexpr uint64_t kHistory = uint64_t{1} << 31;          // operations whose changes can be told at most
constexpr uint64_t kMarkRange = (uint64_t{1} << 32) - 2;  // marks are kept in 32 bits beside a base
constexpr int kMostFrequent = 255;
constexpr uint32_t kTurn = uint32_t{1} << 24;  // updates until the numbers of the last slot come again

bool Fits(size_t got, size_t rows, int64_t width) {
  return got == rows * static_cast<size_t>(width);
}

}  // namespace

Table::Content::Content(const TableSpec& spec, int64_t row_bytes)
    : rows(HeadLayout(spec.times, spec.history && !spec.serving,
                      spec.capacity >= 0 && spec.victims == Victims::kRarest && !spec.serving),
           row_bytes, spec.tier),
      pending(HeadLayout(spec.times, spec.history && !spec.serving, false), sizeof(int64_t)) {
  if (spec.admission.kind == AdmissionKind::kSketch) {
    const Admission& admission = spec.admission;
    sketch = std::make_unique<Sketch>(admission.cells_per_bucket, admission.depth, admission.age_after);
  }
  numbers.newest = kNever;
}

Table::Table(const TableSpec& spec) : spec_(spec) {
  if (spec_.serving) spec_.admission = Admission{};
  slots_ = spec_.serving ? 0 : spec_.rule.SlotCount(spec_.dim) + (spec_.Paced() ? 1 : 0);
  content_ = std::make_unique<Content>(spec_, RowBytes());
}

Removals::Present Table::RowPresent() const {
  return [&rows = content_->rows](std::span<const int64_t> ids, uint8_t* present) {
    std::vector<Cell> cells(ids.size());
    rows.FindAll(ids, cells.data());
    std::transform(cells.begin(), cells.end(), present, [](Cell cell) { return cell != kNoCell ? 1 : 0; });
  };
}

Removals::Present Table::AnyPresent() const {
  return [&content = *content_](std::span<const int64_t> ids, uint8_t* present) {
    for (size_t i = 0; i < ids.size(); ++i) {
      present[i] = content.rows.Find(ids[i]) != kNoCell || content.pending.Find(ids[i]) != kNoCell;
    }
  };
}

void Table::ReadRow(Cell cell, float* out) const {
  const std::byte* row = content_->rows.Row(cell);
  if (spec_.precision == Precision::kFloat32) {
    std::memcpy(out, row, static_cast<size_t>(spec_.dim) * sizeof(float));
  } else {
    ActiveKernels().decode(spec_.precision, spec_.dim, row, out);
  }
}

void Table::WriteRow(Cell cell, const float* row) {
  std::byte* to = content_->rows.Row(cell);
  if (spec_.precision == Precision::kFloat32) {
    std::memcpy(to, row, static_cast<size_t>(spec_.dim) * sizeof(float));
  } else {
    ActiveKernels().encode(spec_.precision, spec_.dim, row, to);
  }
}

uint64_t Table::NextMark() {
  Numbers& numbers = content_->numbers;
  const uint64_t mark = ++numbers.mark;
  if (!KeepsHistory()) {
    numbers.floor = mark;
    return mark;
  }
  if (mark > kHistory && numbers.floor < mark - kHistory) {
    numbers.floor = mark - kHistory;
    content_->removals.Forget(numbers.floor);
    content_->forgotten.Forget(numbers.floor);
  }
  if (mark - content_->rows.base() > kMarkRange) {
    if (capture_ != nullptr) capture_->Spoil();  // once in four thousand million operations
    content_->rows.Rebase(numbers.floor);
    content_->pending.Rebase(numbers.floor);
  }
  return mark;
}

// What a byte budget leaves to memory and to the history of removals.
void Table::KeepWithinLimits() noexcept {
  KeepWithinMemory();
  if (spec_.removal_limit < 0 || !KeepsHistory()) return;
  Content& content = *content_;
  try {
    content.removals.Limit(spec_.removal_limit, RowPresent());
    content.forgotten.Limit(spec_.removal_limit, AnyPresent());
  } catch (const std::bad_alloc&) {  // no memory to choose with: forget all of it
    content.removals.Forget(content.numbers.mark);
    content.forgotten.Forget(content.numbers.mark);
  }
  content.numbers.floor = std::max(content.numbers.floor, content.removals.floor());
}

bool Table::Prepare(StepPart* part, uint64_t mark) const {
  const RowStore& rows = content_->rows;
  const RowStore& pending = content_->pending;
  const size_t n = part->ids.size();
  part->Reset();
  if (!part->finite && !ActiveKernels().finite(part->grads, static_cast<int64_t>(n) * spec_.dim)) {
    part->bad_row = CheckFinite({part->grads, n * static_cast<size_t>(spec_.dim)}, spec_.dim).detail;
    return false;
  }
  if (part->version != rows.version()) {
    part->cells.resize(n);
    rows.FindAll(part->ids, part->hashes, part->cells.data(), 0);
    part->version = rows.version();
  }
  if (spec_.times) {
    for (const int64_t time : part->times) part->newest = std::max(part->newest, time);
  }
  for (size_t i = 0; i < n; ++i) {
    if (part->cells[i] != kNoCell) continue;
    StepPart::Absent absent{static_cast<uint32_t>(i), kNoCell, part->times[i]};
    bool admitted = true;
    int64_t seen = 0;
    if (pending.size() > 0)
      absent.counter = pending.Find(part->ids[i]);  // also what another admission left behind
    if (absent.counter != kNoCell) {
      std::memcpy(&seen, pending.Row(absent.counter), sizeof seen);
      absent.time = std::max(absent.time, pending.Time(absent.counter));
      absent.counted = true;
    }
    if (spec_.admission.kind == AdmissionKind::kCount) {
      admitted = part->counts[i] >= spec_.admission.occurrences - seen;  // the sum might not fit
      if (!admitted) part->waiting.push_back(absent);
    } else {
      admitted = spec_.admission.kind != AdmissionKind::kProbability ||
                 spec_.admission.Admits(part->ids[i], part->counts[i], mark);
    }
    if (admitted) {
      part->fresh.push_back(absent);
    } else {
      ++part->filtered;
    }
  }
  return true;
}

void Table::Count(StepPart* part) {
  if (!content_->sketch) return;
  Sketch& sketch = *content_->sketch;
  std::vector<StepPart::Absent> candidates;
  candidates.swap(part->fresh);
  const auto id_of = [&](const StepPart::Absent& one) { return part->ids[one.index]; };
  std::sort(candidates.begin(), candidates.end(),
            [&](const auto& x, const auto& y) { return id_of(x) < id_of(y); });
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (i + kAhead < candidates.size()) sketch.Fetch(id_of(candidates[i + kAhead]));
    const int stripe = StripeOf(part->hashes[candidates[i].index]);
    if (capture_ != nullptr) capture_->KeepSketch(stripe, sketch);
    content_->sketch_marks[static_cast<size_t>(stripe)] = content_->numbers.mark + 1;
    if (sketch.Add(id_of(candidates[i]), part->counts[candidates[i].index]) >= spec_.admission.occurrences) {
      part->fresh.push_back(candidates[i]);
    } else {
      ++part->filtered;
    }
  }
}

void Table::MakeRoom(const TableStep& step, StepPart* part) {
  if (part->scratch.size() < static_cast<size_t>(2 * spec_.dim))
    part->scratch.resize(static_cast<size_t>(2 * spec_.dim));
  if (part->fresh.empty() && part->waiting.empty()) return;
  part->rows.reserve(part->fresh.size());
  TableStep::PerStripe more{}, counters{};
  for (const StepPart::Absent& one : part->fresh)
    ++more[static_cast<size_t>(StripeOf(part->hashes[one.index]))];
  for (const StepPart::Absent& one : part->waiting) {
    if (one.counter == kNoCell) ++counters[static_cast<size_t>(StripeOf(part->hashes[one.index]))];
  }
  for (size_t stripe = 0; stripe < more.size(); ++stripe) {
    const auto place = static_cast<int>(stripe);
    const int32_t rows = more[stripe] - step.leaving[stripe];
    if (more[stripe] > 0 && rows > 0) content_->rows.ReserveStripe(place, static_cast<uint32_t>(rows));
    const int32_t waiting = counters[stripe] - step.counters_leaving[stripe];
    if (counters[stripe] > 0 && waiting > 0) {
      content_->pending.ReserveStripe(place, static_cast<uint32_t>(waiting));
    }
  }
}

void Table::ReserveStep(const TableStep& step) {
  int64_t fresh = 0, counters = 0;
  size_t dropped = 0;
  for (const StepPart& part : step.parts) {
    fresh += static_cast<int64_t>(part.fresh.size());
    dropped += part.dropped.size();
    counters += std::count_if(part.waiting.begin(), part.waiting.end(),
                              [](const StepPart::Absent& one) { return one.counter == kNoCell; });
  }
  Content& content = *content_;
  content.rows.ReserveCells(std::max<int64_t>(0, fresh - static_cast<int64_t>(step.victims.size())));
  content.pending.ReserveCells(
      std::max<int64_t>(0, counters - static_cast<int64_t>(step.counter_victims.size())));
  if (!KeepsHistory()) return;
  content.removals.Reserve(step.victims.size(), RowPresent());
  content.forgotten.Reserve(step.counter_victims.size() + dropped, AnyPresent());
}

// From here on nothing can fail.
uint64_t Table::Admit(TableStep* step) {
  Content& content = *content_;
  const uint64_t mark = NextMark();
  for (const StepPart& part : step->parts) {
    content.numbers.newest = std::max(content.numbers.newest, part.newest);
    content.numbers.filtered += part.filtered;
    content.numbers.admitted += static_cast<int64_t>(part.fresh.size());
  }
  EvictForRoom(*step, mark);
  for (StepPart& part : step->parts) {
    for (const StepPart::Absent& one : part.fresh) {
      if (one.counter != kNoCell) content.pending.Erase(part.ids[one.index], one.counter);
      part.rows.push_back(content.rows.Take());
    }
    for (const StepPart::Absent& one : part.dropped) DropCount(part.ids[one.index], one.counter, mark);
    for (StepPart::Absent& one : part.waiting) {
      if (one.counter == kNoCell) one.counter = content.pending.Take();
    }
  }
  return mark;
}

void Table::FreshSlots(Cell cell) {
  if (slots_ == 0) return;
  spec_.rule.FreshSlots(spec_.dim, SlotsOf(cell));
  if (spec_.Paced()) SlotsOf(cell)[slots_ - 1] = 0.0f;
}

// The part of a row that one missed update leaves.
double Table::LeftByMissing(float lr) const {
  return std::max(0.0, 1.0 - static_cast<double>(lr) * static_cast<double>(spec_.lost));
}

// Notes in the last slot that a row learns now, and returns what it has missed.
Pace Table::PaceOf(Cell cell, uint64_t mark) {
  Pace pace{mark, 0};
  if (!spec_.Paced()) return pace;
  float& last = SlotsOf(cell)[slots_ - 1];
  const auto now = static_cast<uint32_t>((mark - 1) % kTurn) + 1;
  if (last >= 1.0f && last <= static_cast<float>(kTurn)) {
    const uint32_t missed = (now - static_cast<uint32_t>(last) - 1) % kTurn;
    pace.missed = missed + 1 < mark ? missed : 0;  // 0 where the slot is from a table that has seen more
  }
  last = static_cast<float>(now);
  return pace;
}

void Table::BearRow(int64_t id, Cell cell, float* scratch) {
  if (spec_.precision == Precision::kFloat32) {
    spec_.init.Fill(id, spec_.dim, reinterpret_cast<float*>(content_->rows.Row(cell)));
  } else {
    spec_.init.Fill(id, spec_.dim, scratch);
    ActiveKernels().encode(spec_.precision, spec_.dim, scratch, content_->rows.Row(cell));
  }
  FreshSlots(cell);
}

void Table::LearnRow(StepPart& part, uint32_t index, Cell cell, uint64_t mark, float lr, float* scratch) {
  RowStore& rows = content_->rows;
  const Kernels& kernels = ActiveKernels();
  const int64_t dim = spec_.dim;
  rows.SetTime(cell, std::max(rows.Time(cell), part.times[index]));
  if (rows.keeps_frequencies()) {
    const int64_t grown = std::min<int64_t>(kMostFrequent, part.counts[index]) + rows.Frequency(cell);
    rows.SetFrequency(cell, static_cast<uint8_t>(std::min<int64_t>(kMostFrequent, grown)));
  }
  rows.Touch(cell, mark);
  const float* grad = part.grads + static_cast<int64_t>(index) * dim;
  float* row = reinterpret_cast<float*>(rows.Row(cell));
  const bool whole = spec_.precision == Precision::kFloat32;
  if (!whole) {
    row = scratch + dim;
    kernels.decode(spec_.precision, dim, rows.Row(cell), row);
  }
  const Pace pace = PaceOf(cell, mark);
  if (spec_.lost != 0.0f) kernels.decay(LeftByMissing(lr), pace.missed, dim, row);
  if (!spec_.clips.empty()) {
    std::copy(grad, grad + dim, scratch);
    int clipped = 0;
    for (const Clip& clip : spec_.clips) clipped |= kernels.clip(clip, dim, part.counts[index], row, scratch);
    part.clipped += clipped;
    ++part.learned;
    grad = scratch;
  }
  kernels.step(spec_.rule, lr, pace, dim, row, SlotsOf(cell), grad);
  if (!whole) {
    const uint64_t stream = RoundingStream(spec_.init.key, part.ids[index], mark);
    kernels.encode_stochastic(spec_.precision, dim, row, stream, rows.Row(cell));
  }
}

void Table::CommitCounters(const StepPart& part, uint64_t mark) {
  RowStore& pending = content_->pending;
  for (const StepPart::Absent& one : part.waiting) {
    int64_t count = 0;
    if (one.counted) {
      pending.BeforeChange(part.ids[one.index], one.counter);
      std::memcpy(&count, pending.Row(one.counter), sizeof count);
    } else {
      pending.Link(part.ids[one.index], part.hashes[one.index], one.counter);
    }
    count += part.counts[one.index];  // stays below the threshold, else the id would have been admitted
    std::memcpy(pending.Row(one.counter), &count, sizeof count);
    pending.SetTime(one.counter, one.time);
    pending.Touch(one.counter, mark);
  }
}

void Table::Commit(StepPart& part, uint64_t mark, float lr) {
  RowStore& rows = content_->rows;
  const size_t n = part.ids.size();
  float* scratch = part.scratch.data();
  for (size_t i = 0; i < n + kAhead; ++i) {
    if (i < n && part.cells[i] != kNoCell) {
      rows.FetchForWrite(part.cells[i]);
      __builtin_prefetch(part.grads + i * static_cast<size_t>(spec_.dim));
    }
    if (i < kAhead || part.cells[i - kAhead] == kNoCell) continue;
    const size_t at = i - kAhead;
    const Cell cell = part.cells[at];
    rows.BeforeChange(part.ids[at], cell);
    LearnRow(part, static_cast<uint32_t>(at), cell, mark, lr, scratch);
  }
  for (size_t k = 0; k < part.fresh.size(); ++k) {
    const StepPart::Absent& one = part.fresh[k];
    rows.Link(part.ids[one.index], part.hashes[one.index], part.rows[k]);
    rows.SetTime(part.rows[k], one.time);
    BearRow(part.ids[one.index], part.rows[k], scratch);
    LearnRow(part, one.index, part.rows[k], mark, lr, scratch);
  }
  CommitCounters(part, mark);
  if (spec_.clips.empty()) return;
  learned_ += part.learned;
  clipped_ += part.clipped;
}

Status Table::Update(const Gradients& step, float lr) {
  const size_t n = step.ids.size();
  if (!Fits(step.grads.size(), n, spec_.dim) || step.counts.size() != n || step.times.size() != n) {
    return {Code::kInvalid, 0};
  }
  if (spec_.serving) return {Code::kServing, 0};
  return Guarded([&]() -> Status {
    if (const Status status = CheckUnique(step.ids); !status.ok()) return status;
    if (const Status status = CheckCounts(step.counts); !status.ok()) return status;
    TableStep work;
    work.parts.resize(1);
    StepPart& part = work.parts[0];
    part.ids = step.ids;
    part.counts = step.counts;
    part.times = step.times;
    part.grads = step.grads.data();
    part.Hash();
    const WriteLock guard(this, static_cast<int64_t>(n));
    if (!Prepare(&part, content_->numbers.mark + 1)) return {Code::kNotFinite, part.bad_row};
    Count(&part);
    Decide(&work);
    MakeRoom(work, &part);
    ReserveStep(work);
    Commit(part, Admit(&work), lr);
    Tend(work);
    KeepWithinLimits();
    return {};
  });
}

}  // namespace headrace
