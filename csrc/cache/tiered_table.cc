// The members of Table that know of its cold tier.
#include <algorithm>
#include <mutex>
#include <numeric>
#include <shared_mutex>

#include "table/capture.h"
#include "table/checks.h"
#include "table/guarded.h"
#include "table/table.h"
#include "table/write_locks.h"

namespace headrace {

// After a step: counts what was learned, and moves into memory what deserves it. Nothing that can be read
// changes.
void Table::Tend(const TableStep& step) {
  RowStore& rows = content_->rows;
  if (rows.tier() == nullptr) return;
  for (const StepPart& part : step.parts) rows.Tend(part.hashes, part.cells, part.rows);
  rows.tier()->Watch();
}

// What the rest of the table leaves of the budget is for rows. Where the disk is full more stays in memory;
// the next step that needs room is refused.
void Table::KeepWithinMemory() noexcept {
  Content& content = *content_;
  if (content.rows.tier() == nullptr) return;
  const int64_t others = content.pending.bytes() + content.removals.bytes() + content.forgotten.bytes() +
                         (content.sketch ? content.sketch->bytes() : 0);
  try {
    content.rows.Fit(spec_.tier.memory_bytes - others);
  } catch (const std::bad_alloc&) {
  }
}

Status Table::Warm(std::span<const int64_t> ids, std::span<const int64_t> counts) {
  if (counts.size() != ids.size()) return {Code::kInvalid, 0};
  return Guarded([&]() -> Status {
    if (const Status status = CheckUnique(ids); !status.ok()) return status;
    if (const Status status = CheckCounts(counts); !status.ok()) return status;
    std::vector<uint32_t> order(ids.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t x, uint32_t y) { return counts[x] > counts[y]; });
    const WriteLock guard(this, 0);
    if (content_->rows.tier() == nullptr) return {};
    if (capture_ != nullptr) return {Code::kBusy, 0};
    return {Code::kOk, content_->rows.Warm(ids, counts, order)};
  });
}

Status Table::ReleasePages() {
  return Guarded([&]() -> Status {
    const std::unique_lock guard(lock_);
    return content_->rows.tier() == nullptr ? Status{} : content_->rows.tier()->file()->Release();
  });
}

TierStats Table::GetTier() const {
  const Stats all = GetStats();
  const std::shared_lock guard(lock_);
  const RowStore& rows = content_->rows;
  TierStats stats;
  stats.memory_bytes = all.bytes;
  stats.hot_rows = rows.size();
  const Tier* tier = rows.tier();
  if (tier == nullptr) return stats;
  stats.memory_bytes -= rows.cold_bytes();
  stats.disk_bytes = tier->file().bytes();
  stats.hot_rows = rows.hot_rows();
  stats.cold_rows = rows.size() - stats.hot_rows;
  stats.hits = tier->hits();
  stats.misses = tier->misses();
  stats.promoted = tier->promoted();
  return stats;
}

}  // namespace headrace
