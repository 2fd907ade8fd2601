#include "table/packed_step.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <shared_mutex>

#include "rules/kernels.h"
#include "table/checks.h"
#include "table/guarded.h"
#include "table/threads.h"
#include "table/write_locks.h"

namespace headrace {
namespace {

constexpr size_t kBlock = 32;  // ids whose slots are fetched ahead
constexpr int64_t kFetch = 256;
constexpr int64_t kWorthSplitting = 4096;  // values of a table below which one thread does it all

template <typename T>
T* Room(std::vector<T>* values, size_t count) {
  if (values->size() < count) values->resize(count);
  return values->data();
}

}  // namespace

Status PackedStep::Reset(const Packed& packed, std::span<const FeatureIds> inputs, std::span<const int64_t> times,
                         int threads) {
  features_ = packed.features();
  bags_ = static_cast<int64_t>(times.size());
  times_.assign(times.begin(), times.end());
  inputs_.resize(inputs.size());
  works_.resize(packed.tables().size());
  for (size_t t = 0; t < works_.size(); ++t) {
    works_[t].table = packed.tables()[t];
    works_[t].features.clear();
    works_[t].values = 0;
    works_[t].flowed = false;
  }
  int64_t total = 0;
  for (size_t f = 0; f < inputs.size(); ++f) {
    Input& input = inputs_[f];
    input.ids = inputs[f];
    const bool same = f > 0 && SameOffsets(inputs[f], inputs[f - 1]) && inputs_[f - 1].one_each;
    const Offsets offsets = same ? Offsets::kOneEach : CheckOffsets(inputs[f], bags_);
    if (offsets == Offsets::kBroken) return {Code::kInvalid, static_cast<int64_t>(f)};
    input.one_each = offsets == Offsets::kOneEach;
    input.offsets.clear();
    if (!input.one_each) input.offsets.assign(inputs[f].offsets, inputs[f].offsets + bags_ + 1);
    input.ids.offsets = input.one_each ? nullptr : input.offsets.data();
    Work& work = works_[static_cast<size_t>(features_[f].table)];
    work.features.push_back(f);
    work.values += inputs[f].n;
    total += inputs[f].n;
  }
  for (Work& work : works_) {
    const bool large = work.values >= kWorthSplitting && work.values * 2 * threads > total;
    work.split = large && threads > 1 ? std::min(threads, 16) : 1;
    const auto split = static_cast<size_t>(work.split);
    if (work.parts.size() < split) work.parts.resize(split);
    if (work.lists.size() < work.features.size() * split * split) work.lists.resize(work.features.size() * split * split);
    work.step.parts.resize(split);
  }
  return {};
}

// Runs run(work, index) for every part (or chunk) of every table, on several threads.
template <typename Run>
Status PackedStep::ForAll(int threads, bool split_only, Run run) {
  std::vector<Task> tasks;
  for (Work& work : works_) {
    if (work.features.empty() || (split_only && work.split == 1)) continue;
    for (int index = 0; index < work.split; ++index) tasks.push_back({&work, index});
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task& x, const Task& y) {
    return x.work->values / x.work->split > y.work->values / y.work->split;  // the longest first: no one waits long
  });
  std::atomic<bool> failed{false};
  Threads::For(static_cast<int64_t>(tasks.size()), threads, [&](int64_t i) noexcept {
    try {
      run(*tasks[static_cast<size_t>(i)].work, tasks[static_cast<size_t>(i)].index);
    } catch (const std::bad_alloc&) {
      failed.store(true);
    }
  });
  return failed.load() ? Status{Code::kNoMemory, 0} : Status{};
}

Status PackedStep::Forward(int threads) {
  Status status = ForAll(threads, true, [this](Work& work, int chunk) { Split(work, chunk); });
  if (!status.ok()) return status;
  std::vector<Table*> ordered;
  for (Work& work : works_) ordered.push_back(work.table);
  std::sort(ordered.begin(), ordered.end());
  std::vector<std::shared_lock<FairLock>> guards;
  guards.reserve(ordered.size());
  for (Table* table : ordered) guards.emplace_back(table->lock_);
  status = ForAll(threads, false, [this](Work& work, int part) { Find(work, part); });
  if (!status.ok()) return status;
  return ForAll(threads, true, [this](Work& work, int chunk) { Write(work, chunk); });
}

// Sorts the occurrences of one chunk of bags by the part that their ids belong to.
void PackedStep::Split(Work& work, int chunk) {
  for (size_t k = 0; k < work.features.size(); ++k) {
    Input& input = inputs_[work.features[k]];
    const int64_t first = ValueAt(input, ChunkStart(work, chunk)), last = ValueAt(input, ChunkStart(work, chunk + 1));
    for (int part = 0; part < work.split; ++part) ListOf(work, k, chunk, part).positions.clear();
    for (int64_t i = first; i < last; ++i) {
      const int part = StripeOf(IdMap::Hash(input.ids.values[i])) * work.split >> 8;
      ListOf(work, k, chunk, part).positions.push_back(static_cast<uint32_t>(i));
    }
  }
}

void PackedStep::Find(Work& work, int part) {
  FindDistinct(work, part);
  MakeRows(work, work.parts[static_cast<size_t>(part)], work.step.parts[static_cast<size_t>(part)]);
  if (work.split == 1) Write(work, 0);
}

// Finds the distinct ids of one list of occurrences of one feature.
template <bool kCounts, bool kTimes, bool kSimple>
void PackedStep::Distinct(const Input& input, int64_t bag, List* list, Part* part, RowFinder* finder) const {
  const size_t n = kSimple ? static_cast<size_t>(input.ids.n) : list->places.size();
  const bool all = list->positions.empty();
  uint32_t* places = list->places.data();
  for (size_t start = 0; start < n; start += kBlock) {
    const size_t stop = std::min(start + kBlock, n);
    uint64_t hashes[kBlock];
    int64_t ids[kBlock];
    for (size_t i = start; i < stop; ++i) {
      const size_t position = kSimple || all ? i : list->positions[i];
      ids[i - start] = input.ids.values[position];
      hashes[i - start] = IdMap::Hash(ids[i - start]);
      part->dedupe.Fetch(hashes[i - start]);
    }
    for (size_t i = start; i < stop; ++i) {
      bool fresh;
      const uint64_t hash = hashes[i - start];
      const uint32_t place = part->dedupe.Place(ids[i - start], hash, part->ids.data(), part->count, &fresh);
      places[i] = place;
      int64_t time = 0;
      if (kTimes) {
        const auto position = static_cast<int64_t>(kSimple || all ? i : list->positions[i]);
        if (kSimple || input.one_each) {
          bag = position;
        } else {
          while (input.offsets[static_cast<size_t>(bag) + 1] <= position) ++bag;
        }
        time = times_[static_cast<size_t>(bag)];
      }
      if (fresh) {
        ++part->count;
        part->ids[place] = ids[i - start];
        part->hashes[place] = hash;
        finder->Push();
        if (kCounts) part->counts[place] = 1;
        if (kTimes) part->times[place] = time;
      } else {
        if (kCounts) ++part->counts[place];
        if (kTimes) part->times[place] = std::max(part->times[place], time);
      }
    }
  }
}

void PackedStep::FindDistinct(Work& work, int part) {
  Part& own = work.parts[static_cast<size_t>(part)];
  const Table& table = *work.table;
  size_t most = 0;
  for (size_t k = 0; k < work.features.size(); ++k) {
    for (int chunk = 0; chunk < work.split; ++chunk) {
      List& list = ListOf(work, k, chunk, part);
      const Input& input = inputs_[work.features[k]];
      if (work.split == 1) list.positions.clear();
      list.places.resize(work.split == 1 ? static_cast<size_t>(input.ids.n) : list.positions.size());
      most += list.places.size();
    }
  }
  const bool counts = table.CountsMatter(), times = table.spec().times;
  own.count = 0;
  for (auto* column : {&own.ids, &own.counts, &own.times}) Room(column, most);
  Room(&own.hashes, most);
  own.dedupe.Reset(most);
  StepPart& step = work.step.parts[static_cast<size_t>(part)];
  step.cells.resize(most);
  Room(&own.rows, most);
  const int64_t fetch = std::min(EncodedBytes(table.spec().precision, table.dim()), kFetch);
  RowFinder finder(table.content_->rows, own.ids.data(), own.hashes.data(), step.cells.data(), own.rows.data(), fetch);
  for (size_t k = 0; k < work.features.size(); ++k) {
    const Input& input = inputs_[work.features[k]];
    const bool simple = work.split == 1 && input.one_each;
    for (int chunk = 0; chunk < work.split; ++chunk) {
      List& list = ListOf(work, k, chunk, part);
      if (list.places.empty()) continue;
      const int64_t bag = ChunkStart(work, chunk);
      if (simple && !counts && !times) {
        Distinct<false, false, true>(input, bag, &list, &own, &finder);
      } else if (simple && !counts) {
        Distinct<false, true, true>(input, bag, &list, &own, &finder);
      } else {
        Distinct<true, true, false>(input, bag, &list, &own, &finder);
      }
    }
  }
  finder.Finish();
}

// Makes rows where there are none to point at.
void PackedStep::MakeRows(Work& work, Part& part, StepPart& step) {
  const Table& table = *work.table;
  const RowStore& store = table.content_->rows;
  const size_t n = part.count;
  const auto dim = static_cast<size_t>(table.dim());
  const bool whole = table.spec().precision == Precision::kFloat32;
  step.ids = {part.ids.data(), n};
  step.counts = {part.counts.data(), n};
  step.times = {part.times.data(), n};
  step.hashes = part.hashes.data();
  step.cells.resize(n);
  step.version = store.version();
  const auto absent = static_cast<size_t>(std::count(step.cells.begin(), step.cells.end(), kNoCell));
  if (whole && absent == 0) return;
  float* next = part.decoded.Room((whole ? absent : n) * dim);
  for (size_t i = 0; i < n; ++i) {
    if (whole && step.cells[i] != kNoCell) continue;
    if (step.cells[i] == kNoCell) {
      table.spec().init.Fill(part.ids[i], table.dim(), next);
    } else {
      table.ReadRow(step.cells[i], next);
    }
    part.rows[i] = next;
    next += dim;
  }
}

// Writes the outputs of one chunk of bags.
void PackedStep::Write(Work& work, int chunk) {
  thread_local std::vector<const float*> rows;
  const int64_t dim = work.table->dim();
  const int64_t first = ChunkStart(work, chunk), last = ChunkStart(work, chunk + 1);
  for (size_t k = 0; k < work.features.size(); ++k) {
    const Input& input = inputs_[work.features[k]];
    const int64_t start = ValueAt(input, first), stop = ValueAt(input, last);
    const float** to = Room(&rows, static_cast<size_t>(stop - start));
    for (int part = 0; part < work.split; ++part) {
      const List& list = ListOf(work, k, chunk, part);
      const float* const* from = work.parts[static_cast<size_t>(part)].rows.data();
      if (work.split == 1) {
        for (int64_t i = 0; i < stop; ++i) to[i] = from[list.places[static_cast<size_t>(i)]];
      } else {
        for (size_t i = 0; i < list.places.size(); ++i) to[list.positions[i] - start] = from[list.places[i]];
      }
    }
    PoolRows(input.ids, features_[work.features[k]].pooling, input.one_each, first, last, dim, to);
  }
}

void PackedStep::SumList(const Input& input, Pooling pooling, const List& list, int64_t first, int64_t last,
                         const float* grads, int64_t dim, float* sums) const {
  const Kernels& kernels = ActiveKernels();
  const bool direct = input.one_each || pooling == Pooling::kNone;
  const auto n = static_cast<int64_t>(list.places.size());
  if (direct && list.positions.empty()) {
    kernels.accumulate(dim, n, list.places.data(), grads, dim, sums);
    return;
  }
  std::vector<float> share(static_cast<size_t>(dim));
  int64_t bag = first, shared = -1;
  (void)last;
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    const int64_t position = list.positions.empty() ? i : list.positions[at];
    const float* grad = grads + position * dim;
    if (!direct) {
      while (input.offsets[static_cast<size_t>(bag) + 1] <= position) ++bag;
      grad = grads + bag * dim;
      const int64_t length = input.offsets[static_cast<size_t>(bag) + 1] - input.offsets[static_cast<size_t>(bag)];
      if (pooling == Pooling::kMean && length > 1) {
        if (shared != bag) {
          for (int64_t j = 0; j < dim; ++j) share[static_cast<size_t>(j)] = grad[j] / static_cast<float>(length);
          shared = bag;
        }
        grad = share.data();
      }
    }
    kernels.add(dim, grad, sums + static_cast<int64_t>(list.places[at]) * dim);
  }
}

void PackedStep::Sum(Work& work, int part, std::span<const float* const> grads) {
  Part& own = work.parts[static_cast<size_t>(part)];
  const int64_t dim = work.table->dim();
  const size_t count = own.count * static_cast<size_t>(dim);
  float* sums = work.flowed ? own.sums.data() : own.sums.Room(count);
  if (!work.flowed) std::memset(sums, 0, count * sizeof(float));
  for (size_t k = 0; k < work.features.size(); ++k) {
    const size_t f = work.features[k];
    if (grads[f] == nullptr) continue;
    for (int chunk = 0; chunk < work.split; ++chunk) {
      const List& list = ListOf(work, k, chunk, part);
      if (work.split > 1 && list.positions.empty()) continue;
      SumList(inputs_[f], features_[f].pooling, list, ChunkStart(work, chunk), ChunkStart(work, chunk + 1), grads[f],
              dim, sums);
    }
  }
  work.step.parts[static_cast<size_t>(part)].grads = sums;
}

bool PackedStep::Fits(size_t f, size_t rows, size_t dim) const {
  const bool pooled = features_[f].pooling != Pooling::kNone;
  const auto width = static_cast<size_t>(works_[static_cast<size_t>(features_[f].table)].table->dim());
  return dim == width && rows == static_cast<size_t>(pooled ? bags_ : inputs_[f].ids.n);
}

Status PackedStep::Accumulate(std::span<const float* const> grads, int threads) {
  const auto flows = [&](const Work& work) {
    return work.values > 0 && std::any_of(work.features.begin(), work.features.end(),
                                          [&](size_t f) { return grads[f] != nullptr; });
  };
  return Guarded([&]() -> Status {
    const Status status = ForAll(threads, false, [&](Work& work, int part) {
      if (flows(work)) Sum(work, part, grads);
    });
    for (Work& work : works_) work.flowed |= flows(work);
    return status;
  });
}

Status PackedStep::Apply(std::span<const float> lrs, int threads, int32_t* failed) {
  return Guarded([&]() -> Status {
    std::vector<Table*> tables;
    std::vector<int64_t> rows;
    for (Work& work : works_) {
      if (!work.flowed) continue;
      int64_t count = 0;
      for (int part = 0; part < work.split; ++part) {
        count += static_cast<int64_t>(work.parts[static_cast<size_t>(part)].count);
      }
      tables.push_back(work.table);
      rows.push_back(count);
    }
    if (tables.empty()) return {};
    const auto each = [&](Work& work, int part, auto run) {
      if (work.flowed) run(*work.table, work.step.parts[static_cast<size_t>(part)]);
    };
    const WriteLocks guard(tables, rows);
    Status status = ForAll(threads, false, [&](Work& work, int index) {
      each(work, index, [](Table& table, StepPart& part) { table.Prepare(&part, table.content_->numbers.mark + 1); });
    });
    if (!status.ok()) return status;
    for (size_t t = 0; t < works_.size(); ++t) {
      if (!works_[t].flowed) continue;
      for (const StepPart& part : works_[t].step.parts) {
        if (part.bad_row < 0) continue;
        *failed = static_cast<int32_t>(t);
        return {Code::kNotFinite, part.bad_row};
      }
    }
    status = ForAll(threads, false, [&](Work& work, int index) {
      each(work, index, [](Table& table, StepPart& part) { table.Count(&part); });
    });
    if (!status.ok()) return status;
    for (Work& work : works_) {
      if (work.flowed) work.table->Decide(&work.step);
    }
    status = ForAll(threads, false, [&](Work& work, int index) {
      each(work, index, [&](Table& table, StepPart& part) { table.MakeRoom(work.step, &part); });
    });
    if (!status.ok()) return status;
    for (Work& work : works_) {
      if (work.flowed) work.table->ReserveStep(work.step);
    }
    std::vector<uint64_t> marks(works_.size());  // from here on nothing can fail
    for (size_t t = 0; t < works_.size(); ++t) {
      if (works_[t].flowed) marks[t] = works_[t].table->Admit(&works_[t].step);
    }
    status = ForAll(threads, false, [&](Work& work, int index) {
      const auto t = static_cast<size_t>(&work - works_.data());
      each(work, index, [&](Table& table, StepPart& part) { table.Commit(part, marks[t], lrs[t]); });
    });
    for (Work& work : works_) {
      if (work.flowed) work.table->KeepWithinLimits();
    }
    return status;
  });
}

Status PackedStep::Take(int32_t table, Sums* out) const {
  return Guarded([&]() -> Status {
    const Work& work = works_[static_cast<size_t>(table)];
    const auto dim = static_cast<size_t>(work.table->dim());
    std::vector<std::pair<int64_t, std::pair<const Part*, size_t>>> order;
    for (int p = 0; p < work.split; ++p) {
      const Part& part = work.parts[static_cast<size_t>(p)];
      for (size_t i = 0; i < part.count; ++i) order.push_back({part.ids[i], {&part, i}});
    }
    std::sort(order.begin(), order.end());
    for (const auto& [id, where] : order) {
      const auto& [part, i] = where;
      out->ids.push_back(id);
      if (work.flowed) {
        out->grads.insert(out->grads.end(), part->sums.data() + i * dim, part->sums.data() + (i + 1) * dim);
      }
    }
    return {};
  });
}

}  // namespace headrace
