#include "shared/space_reader.h"

#include <algorithm>
#include <numeric>

namespace headrace::shared {
namespace {

constexpr size_t kAhead = 16;
constexpr int64_t kLine = 64;

}  // namespace

Status SpaceReader::Open(const std::string& folder, int place, std::vector<InitialRow> initial) {
  if (place < 0 || place >= kMaxReaders) return {Code::kInvalid, place};
  folder_ = folder;
  if (const Status mapped = control_file_.Open(folder + "/control"); !mapped.ok()) return mapped;
  if (const Status mapped = dense_file_.Open(folder + "/dense"); !mapped.ok()) return mapped;
  auto* control = reinterpret_cast<Control*>(control_file_.data());
  if (control_file_.size() < sizeof(Control) || control->magic != kMagic || control->layout != kLayout ||
      control->tables != initial.size()) {
    return {Code::kCorrupt, 0};
  }
  control_ = control;
  dense_bytes_ = control->dense_bytes;
  dense_stride_ = (std::max<size_t>(dense_bytes_, 1) + kPage - 1) / kPage * kPage;
  if (dense_file_.size() < 2 * dense_stride_) return {Code::kCorrupt, 0};
  place_ = &control->readers[place];
  tables_.resize(initial.size());
  for (size_t table = 0; table < initial.size(); ++table) tables_[table].initial = initial[table];
  return {};
}

Status SpaceReader::Enter() {
  uint64_t epoch = control_->epoch.load(std::memory_order_seq_cst);
  if (epoch == 0) return {Code::kStale, -1};
  for (;;) {
    place_->epoch.store(epoch, std::memory_order_seq_cst);
    const uint64_t newest = control_->epoch.load(std::memory_order_seq_cst);
    if (newest == epoch) break;
    epoch = newest;
  }
  epoch_ = epoch;
  for (size_t table = 0; table < tables_.size(); ++table) {
    Part& part = tables_[table];
    const uint64_t generation = side().generation[table];
    if (part.generation == generation) continue;
    const Status mapped =
        part.table.Open(folder_ + "/table-" + std::to_string(table) + "-" + std::to_string(generation));
    part.generation = mapped.ok() ? generation : 0;
    if (!mapped.ok()) {
      Leave();
      return mapped;
    }
  }
  return {};
}

void SpaceReader::Leave() {
  if (epoch_ == 0) return;
  epoch_ = 0;
  place_->epoch.store(0, std::memory_order_release);
}

void SpaceReader::Read(int table, std::span<const int64_t> ids, float* rows, int64_t stride) const {
  const Part& part = tables_[static_cast<size_t>(table)];
  const TableHead& head = part.table.head();
  const auto precision = static_cast<Precision>(head.precision);
  const Kernels& kernels = ActiveKernels();
  // A row is two misses away, its cell and itself: both are on their way some ids before they are needed.
  const std::byte* found[kAhead];
  const size_t count = ids.size();
  for (size_t i = 0; i < std::min(count, kAhead); ++i) part.table.Prefetch(ids[i]);
  for (size_t i = 0; i < count + kAhead; ++i) {
    if (i >= kAhead) {
      const size_t at = i - kAhead;
      float* out = rows + static_cast<int64_t>(at) * stride;
      if (const std::byte* row = found[at % kAhead]) {
        kernels.decode(precision, head.dim, row, out);
      } else {
        part.initial.Fill(ids[at], head.dim, out);
      }
    }
    if (i >= count) continue;
    if (i + kAhead < count) part.table.Prefetch(ids[i + kAhead]);
    const std::byte* row = part.table.Find(ids[i], epoch_);
    found[i % kAhead] = row;
    if (row == nullptr) continue;
    for (int64_t byte = 0; byte < head.row_bytes; byte += kLine) __builtin_prefetch(row + byte);
    __builtin_prefetch(row + head.row_bytes - 1);
  }
}

bool SpaceReader::Has(int table, int64_t id) const {
  return tables_[static_cast<size_t>(table)].table.Find(id, epoch_) != nullptr;
}

void SpaceReader::ReadAll(int table, std::vector<int64_t>* ids, std::vector<float>* rows) const {
  ids->clear();
  const Part& part = tables_[static_cast<size_t>(table)];
  part.table.Each(epoch_, [&](int64_t id, const std::byte*) { ids->push_back(id); });
  std::sort(ids->begin(), ids->end());
  const int64_t dim = part.table.head().dim;
  rows->resize(ids->size() * static_cast<size_t>(dim));
  Read(table, *ids, rows->data(), dim);
}

int64_t SpaceReader::dim(int table) const {
  const Part& part = tables_[static_cast<size_t>(table)];
  return part.table.is_open() ? part.table.head().dim : -1;
}

int64_t SpaceReader::newest() const {
  // A side may be changing under a reader that is outside, so it enters for the moment.
  for (;;) {
    const uint64_t epoch = control_->epoch.load(std::memory_order_seq_cst);
    if (epoch == 0) return -1;
    const uint64_t before = place_->epoch.load(std::memory_order_relaxed);
    if (before != 0) return control_->sides[before & 1].version;
    place_->epoch.store(epoch, std::memory_order_seq_cst);
    const bool held = control_->epoch.load(std::memory_order_seq_cst) == epoch;
    const int64_t version = held ? control_->sides[epoch & 1].version : -1;
    place_->epoch.store(0, std::memory_order_release);
    if (held) return version;
  }
}

}  // namespace headrace::shared
