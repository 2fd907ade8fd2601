#include "table/packed.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <shared_mutex>

#include "rules/kernels.h"
#include "table/guarded.h"
#include "table/packed_step.h"
#include "table/threads.h"

namespace headrace {
namespace {

constexpr int64_t kBagsPerTask = 1024;
constexpr int64_t kFetch = 256;
constexpr size_t kSpare = 4;  // passes whose memory is kept

}  // namespace

bool SameOffsets(const FeatureIds& x, const FeatureIds& y) {
  return x.offsets == y.offsets && x.n == y.n;
}

Offsets CheckOffsets(const FeatureIds& ids, int64_t bags) {
  bool one_each = ids.n == bags, rising = true;
  for (int64_t b = 0; one_each && b <= bags; ++b) one_each = ids.offsets[b] == b;
  if (one_each) return Offsets::kOneEach;
  for (int64_t b = 0; b < bags; ++b) rising &= ids.offsets[b] <= ids.offsets[b + 1];
  return rising && ids.offsets[0] == 0 && ids.offsets[bags] == ids.n ? Offsets::kJagged : Offsets::kBroken;
}

void PoolRows(const FeatureIds& ids, Pooling pooling, bool one_each, int64_t first, int64_t last, int64_t dim,
              const float* const* rows) {
  const Kernels& kernels = ActiveKernels();
  const int64_t stride = ids.stride != 0 ? ids.stride : dim;
  if (one_each || pooling == Pooling::kNone) {
    const int64_t start = one_each ? first : ids.offsets[first];
    const int64_t stop = one_each ? last : ids.offsets[last];
    kernels.gather(dim, stop - start, rows, ids.out + start * stride, stride);
    return;
  }
  for (int64_t b = first; b < last; ++b) {
    float* out = ids.out + b * stride;
    const int64_t start = ids.offsets[b], stop = ids.offsets[b + 1];
    if (start == stop) {
      std::fill(out, out + dim, 0.0f);
      continue;
    }
    std::memcpy(out, *rows++, static_cast<size_t>(dim) * sizeof(float));
    for (int64_t i = start + 1; i < stop; ++i) kernels.add(dim, *rows++, out);
    if (pooling == Pooling::kMean && stop - start > 1) {
      const auto length = static_cast<float>(stop - start);
      for (int64_t j = 0; j < dim; ++j) out[j] = out[j] / length;
    }
  }
}

// Looks up the bags [first, last) of one feature and pools them. REQUIRES: the table's reader lock.
void Packed::ReadBags(const Table& table, const FeatureIds& ids, Pooling pooling, bool one_each,
                      int64_t first, int64_t last) {
  const int64_t start = one_each ? first : ids.offsets[first], stop = one_each ? last : ids.offsets[last];
  const auto n = static_cast<size_t>(stop - start), dim = static_cast<size_t>(table.dim());
  const std::span<const int64_t> values(ids.values + start, n);
  const RowStore& store = table.content_->rows;
  const bool whole = table.spec().precision == Precision::kFloat32;
  thread_local std::vector<uint64_t> hashes;
  thread_local std::vector<Cell> cells;
  thread_local std::vector<const float*> rows;
  thread_local std::vector<float> made;
  hashes.resize(n);
  cells.resize(n);
  rows.resize(n);
  for (size_t i = 0; i < n; ++i) hashes[i] = IdMap::Hash(values[i]);
  store.FindRows(values, hashes.data(), cells.data(), rows.data(),
                 std::min(EncodedBytes(table.spec().precision, table.dim()), kFetch));
  const auto absent = static_cast<size_t>(std::count(cells.begin(), cells.end(), kNoCell));
  made.resize((whole ? absent : n) * dim);
  float* next = made.data();
  for (size_t i = 0; i < n && !made.empty(); ++i) {
    if (whole && cells[i] != kNoCell) continue;
    if (cells[i] == kNoCell) {
      table.spec().init.Fill(values[i], table.dim(), next);
    } else {
      table.ReadRow(cells[i], next);
    }
    rows[i] = next;
    next += dim;
  }
  PoolRows(ids, pooling, one_each, first, last, table.dim(), rows.data());
}

Packed::Packed(std::vector<Table*> tables, std::vector<Feature> features)
    : tables_(std::move(tables)), features_(std::move(features)) {}

Packed::~Packed() = default;

Status Packed::Read(std::span<const FeatureIds> inputs, int64_t bags, int threads) const {
  const int64_t chunks = (bags + kBagsPerTask - 1) / kBagsPerTask;
  std::atomic<bool> failed{false};
  std::vector<uint8_t> one_each(inputs.size());
  for (size_t f = 0; f < inputs.size(); ++f) {
    const bool same = f > 0 && SameOffsets(inputs[f], inputs[f - 1]);
    const Offsets offsets = same && one_each[f - 1] ? Offsets::kOneEach : CheckOffsets(inputs[f], bags);
    if (offsets == Offsets::kBroken) return {Code::kInvalid, static_cast<int64_t>(f)};
    one_each[f] = offsets == Offsets::kOneEach ? 1 : 0;
  }
  std::vector<const Table*> order;
  std::vector<std::shared_lock<FairLock>> guards;
  return Guarded([&]() -> Status {
    std::vector<Table*> ordered = tables_;
    std::sort(ordered.begin(), ordered.end());
    for (Table* table : ordered) guards.emplace_back(table->lock_);
    Threads::For(static_cast<int64_t>(inputs.size()) * chunks, threads, [&](int64_t task) noexcept {
      const auto f = static_cast<size_t>(task / chunks);
      const int64_t first = task % chunks * kBagsPerTask, last = std::min(bags, first + kBagsPerTask);
      const Table& table = *tables_[static_cast<size_t>(features_[f].table)];
      try {
        ReadBags(table, inputs[f], features_[f].pooling, one_each[f] != 0, first, last);
      } catch (const std::bad_alloc&) {
        failed.store(true);
      }
    });
    return failed.load() ? Status{Code::kNoMemory, 0} : Status{};
  });
}

Status Packed::Forward(std::span<const FeatureIds> inputs, std::span<const int64_t> times, int threads,
                       std::unique_ptr<PackedStep>* out) {
  return Guarded([&]() -> Status {
    std::unique_ptr<PackedStep> step;
    {
      const std::lock_guard guard(lock_);
      if (!spare_.empty()) {
        step = std::move(spare_.back());
        spare_.pop_back();
      }
    }
    if (!step) step = std::make_unique<PackedStep>();
    Status status = step->Reset(*this, inputs, times, threads);
    if (status.ok()) status = step->Forward(threads);
    if (status.ok()) *out = std::move(step);
    return status;
  });
}

Status Packed::Fetch(std::span<const FeatureIds> inputs) const {
  return Guarded([&]() -> Status {
    std::vector<uintptr_t> pages;
    for (size_t f = 0; f < inputs.size(); ++f) {
      const Table& table = *tables_[static_cast<size_t>(features_[f].table)];
      const std::shared_lock guard(table.lock_);
      table.content_->rows.ColdPages(inputs[f].values, nullptr, static_cast<size_t>(inputs[f].n), &pages);
    }
    ColdFile::Fetch(&pages);  // without a lock: it takes a while, and pages that are gone by now do no harm
    return {};
  });
}

void Packed::GiveBack(std::unique_ptr<PackedStep> step) {
  const std::lock_guard guard(lock_);
  if (spare_.size() < kSpare) spare_.push_back(std::move(step));
}

}  // namespace headrace
