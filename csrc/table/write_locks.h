// WriteLock: a table alone, for a write of so many rows. A write that a capture could not keep the old rows
// of waits here, before it has the lock, until the capture has got further.
//
// Thread safety: as a lock guard.
// Invariants:
//   1. While a capture is limited to so many bytes, a writer inside never makes it exceed them by more than
//   the
//      doubling of its buffers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "table/table.h"

namespace headrace {

class WriteLock {
 public:
  WriteLock(Table* table, int64_t rows) : table_(table) {
    for (;;) {
      table_->WaitForCapture(rows);
      table_->lock_.lock();
      if (!table_->MustWait(rows)) return;
      table_->lock_.unlock();
    }
  }
  ~WriteLock() { table_->lock_.unlock(); }
  WriteLock(const WriteLock&) = delete;
  WriteLock& operator=(const WriteLock&) = delete;

 private:
  Table* table_;
};

// Several tables alone. REQUIRES: tables without repetition; rows[i] belongs to tables[i].
class WriteLocks {
 public:
  WriteLocks(std::span<Table* const> tables, std::span<const int64_t> rows)
      : tables_(tables.begin(), tables.end()) {
    std::vector<size_t> order(tables_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t x, size_t y) { return tables[x] < tables[y]; });
    for (;;) {
      for (size_t i = 0; i < tables.size(); ++i) tables[i]->WaitForCapture(rows[i]);
      for (const size_t i : order)
        tables[i]->lock_.lock();  // always in the same order: no two callers wait in a ring
      bool wait = false;
      for (size_t i = 0; i < tables.size(); ++i) wait |= tables[i]->MustWait(rows[i]);
      if (!wait) return;
      for (Table* table : tables_) table->lock_.unlock();
    }
  }
  ~WriteLocks() {
    for (Table* table : tables_) table->lock_.unlock();
  }
  WriteLocks(const WriteLocks&) = delete;
  WriteLocks& operator=(const WriteLocks&) = delete;

 private:
  std::vector<Table*> tables_;
};

}  // namespace headrace
