#include "table/frozen.h"

#include <new>

#include "table/row_store.h"

namespace headrace {

Frozen::Frozen(const RowStore& store, std::span<const Cell> listed, bool all)
    : head_bytes_(store.layout().bytes), row_bytes_(store.row_bytes()), words_(store.live().size()) {
  done_ = std::make_unique<std::atomic<uint64_t>[]>(words_);
  for (size_t i = 0; i < words_; ++i) {
    done_[i].store(all ? ~store.live()[i] : ~uint64_t{0}, std::memory_order_relaxed);
  }
  records_.resize(IdMap::kStripeCount);
  listed_.resize(IdMap::kStripeCount);
  for (const Cell cell : listed) {
    done_[cell >> 6].fetch_and(~Mask(cell), std::memory_order_relaxed);
    listed_[static_cast<size_t>(StripeOf(IdMap::Hash(store.IdOf(cell))))].push_back(cell);
  }
  fixed_ = static_cast<int64_t>(words_ * 8 + listed.size() * sizeof(Cell));
}

void Frozen::Keep(Cell cell, int stripe, const std::byte* head, const std::byte* row) noexcept {
  if ((cell >> 6) >= words_) return;
  if (Mask(cell) & done_[cell >> 6].fetch_or(Mask(cell), std::memory_order_relaxed)) return;
  if (stripe < next_) return;  // has been read; but the cell may be used again, by an id of a later stripe
  try {
    std::vector<std::byte>& records = records_[static_cast<size_t>(stripe)];
    const size_t had = records.capacity();
    records.insert(records.end(), head, head + head_bytes_);
    if (frequencies_ != nullptr && cell < frequencies_->size()) {
      records[records.size() - static_cast<size_t>(head_bytes_ - frequency_at_)] =
          std::byte{(*frequencies_)[cell]};
    }
    records.insert(records.end(), row, row + row_bytes_);
    if (records.capacity() != had) {
      kept_.fetch_add(static_cast<int64_t>(records.capacity() - had), std::memory_order_relaxed);
    }
  } catch (const std::bad_alloc&) {
    failed_.store(true, std::memory_order_relaxed);
  }
}

std::vector<std::byte> Frozen::Take(int stripe) {
  std::vector<std::byte> records = std::move(records_[static_cast<size_t>(stripe)]);
  records_[static_cast<size_t>(stripe)] = {};
  kept_.fetch_sub(static_cast<int64_t>(records.capacity()), std::memory_order_relaxed);
  next_ = stripe + 1;
  return records;
}

}  // namespace headrace
