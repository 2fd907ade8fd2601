// The members of Table that take over what was saved.
#include <algorithm>
#include <cstring>

#include "table/capture.h"
#include "table/guarded.h"
#include "table/table.h"
#include "table/write_locks.h"

namespace headrace {
namespace {

constexpr uint64_t kHistory = uint64_t{1} << 31;

}  // namespace

// Takes the content of another table, when no capture reads the present one.
void Table::Become(Table* fresh) {
  for (;;) {
    WaitForNoCapture();
    const WriteLock guard(this, 0);
    if (capture_ != nullptr) continue;  // another began meanwhile
    content_.swap(fresh->content_);
    return;
  }
}

// Starts an empty table at these numbers.
void Table::StartAt(const Numbers& saved) {
  Numbers& numbers = content_->numbers;
  numbers = saved;
  if (!KeepsHistory()) numbers.floor = numbers.mark;
  if (numbers.mark > kHistory) numbers.floor = std::max(numbers.floor, numbers.mark - kHistory);
  if (!spec_.times) numbers.newest = kNever;
  content_->rows.Rebase(numbers.floor);
  content_->pending.Rebase(numbers.floor);
  content_->forgotten.Forget(numbers.mark);  // which counts went before is not known: increments start here
  content_->sketch_marks.fill(numbers.mark);
}

Status Table::Import(const Parts& parts) {
  const auto dim = static_cast<size_t>(spec_.dim), slots = static_cast<size_t>(slots_);
  const size_t n = parts.ids.size();
  if (parts.rows.size() != n * dim || parts.slots.size() != n * slots) return {Code::kInvalid, 0};
  const auto over = [](size_t count, int64_t limit) {
    return limit >= 0 && static_cast<int64_t>(count) > limit;
  };
  if (over(n, spec_.capacity)) return {Code::kFull, spec_.capacity};
  if (over(parts.pending_ids.size(), spec_.pending_limit)) return {Code::kFull, spec_.pending_limit};
  return Guarded([&]() -> Status {
    Table fresh(spec_);
    Content& content = *fresh.content_;
    fresh.StartAt(parts.numbers);
    const Numbers& numbers = content.numbers;
    if (content.sketch && !parts.sketch.empty() && !content.sketch->Load(parts.sketch))
      return {Code::kInvalid, 1};
    content.rows.Reserve(parts.ids);
    content.pending.Reserve(parts.pending_ids);
    for (size_t i = 0; i < n; ++i) {
      const Cell cell = content.rows.Insert(parts.ids[i]);
      content.rows.SetTime(cell, parts.times[i]);
      content.rows.SetFrequency(cell, parts.frequencies[i]);
      content.rows.Touch(cell, std::max(static_cast<uint64_t>(parts.marks[i]), numbers.floor));
      fresh.WriteRow(cell, parts.rows.data() + i * dim);
      if (slots > 0) std::copy_n(parts.slots.data() + i * slots, slots, fresh.SlotsOf(cell));
    }
    for (size_t i = 0; i < parts.pending_ids.size(); ++i) {
      const Cell cell = content.pending.Insert(parts.pending_ids[i]);
      std::memcpy(content.pending.Row(cell), &parts.pending_counts[i], sizeof(int64_t));
      content.pending.SetTime(cell, parts.pending_times[i]);
      content.pending.Touch(cell, numbers.mark);
    }
    std::vector<std::pair<int64_t, int64_t>> history;  // (mark, id)
    for (size_t i = 0; KeepsHistory() && i < parts.removed_ids.size(); ++i) {
      history.emplace_back(parts.removed_marks[i], parts.removed_ids[i]);
    }
    std::sort(history.begin(), history.end());
    content.removals.Reserve(history.size(), fresh.RowPresent());
    for (const auto& [mark, id] : history) content.removals.Add(static_cast<uint64_t>(mark), id);
    content.removals.Forget(numbers.floor);
    fresh.KeepWithinLimits();
    Become(&fresh);
    return {};
  });
}

Status Table::Load(BlockSource* source, const Numbers& numbers) {
  const auto embedding = static_cast<size_t>(EncodedBytes(spec_.precision, spec_.dim));
  const auto floats = static_cast<size_t>(slots_);
  return Guarded([&]() -> Status {
    Table fresh(spec_);
    fresh.StartAt(numbers);
    Content& content = *fresh.content_;
    const uint64_t floor = content.numbers.floor;
    std::vector<std::pair<int64_t, int64_t>> history;  // (mark, id)
    Block block;
    for (bool done = false;;) {
      if (const Status status = source->Next(&block, &done); !status.ok()) return status;
      if (done) break;
      const size_t n = block.ids.size();
      if (block.rows.size() != n * embedding || block.slots.size() != n * floats) return {Code::kInvalid, 0};
      const bool marked = block.marks.size() == n, timed = block.times.size() == n;
      const bool counted = block.frequencies.size() == n;
      content.rows.Reserve(block.ids);
      for (size_t i = 0; i < n; ++i) {
        const Cell cell = content.rows.Insert(block.ids[i]);
        if (timed) content.rows.SetTime(cell, block.times[i]);
        if (counted) content.rows.SetFrequency(cell, block.frequencies[i]);
        const uint64_t mark = marked ? static_cast<uint64_t>(block.marks[i]) : numbers.mark;
        content.rows.Touch(cell, std::max(mark, floor));
        std::memcpy(content.rows.Row(cell), block.rows.data() + i * embedding, embedding);
        if (floats > 0) std::copy_n(block.slots.data() + i * floats, floats, fresh.SlotsOf(cell));
      }
      content.pending.Reserve(block.pending_ids);
      for (size_t i = 0; i < block.pending_ids.size(); ++i) {
        const Cell cell = content.pending.Insert(block.pending_ids[i]);
        std::memcpy(content.pending.Row(cell), &block.pending_counts[i], sizeof(int64_t));
        content.pending.SetTime(cell, block.pending_times[i]);
        content.pending.Touch(cell, numbers.mark);
      }
      for (size_t i = 0; KeepsHistory() && i < block.removed_ids.size(); ++i) {
        history.emplace_back(block.removed_marks[i], block.removed_ids[i]);
      }
      if (content.sketch && !block.sketch.empty()) {
        const auto part = content.sketch->StripeBytes(block.stripe);
        if (part.size() != block.sketch.size()) return {Code::kInvalid, 1};
        std::memcpy(part.data(), block.sketch.data(), part.size());
      }
      if (spec_.capacity >= 0 && content.rows.size() > spec_.capacity) return {Code::kFull, spec_.capacity};
      if (spec_.pending_limit >= 0 && content.pending.size() > spec_.pending_limit) {
        return {Code::kFull, spec_.pending_limit};
      }
    }
    Numbers last;
    if (const Status status = source->Close(&last); !status.ok()) return status;
    std::sort(history.begin(), history.end());
    content.removals.Reserve(history.size(), fresh.RowPresent());
    for (const auto& [mark, id] : history) content.removals.Add(static_cast<uint64_t>(mark), id);
    content.removals.Forget(floor);
    fresh.KeepWithinLimits();
    Become(&fresh);
    return {};
  });
}

}  // namespace headrace
