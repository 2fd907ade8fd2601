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

Status PackedStep::Reset(const Packed& packed, std::span<const FeatureIds> inputs,
                         std::span<const int64_t> times, int threads) {
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
  size_t tasks = 0;
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
    tasks += split;
    if (work.parts.size() < split) work.parts.resize(split);
    if (work.lists.size() < work.features.size() * split * split)
      work.lists.resize(work.features.size() * split * split);
    work.step.parts.resize(split);
  }
  tasks_.reserve(tasks);
  return {};
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
    const int64_t first = ValueAt(input, ChunkStart(work, chunk)),
                  last = ValueAt(input, ChunkStart(work, chunk + 1));
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
template <bool kCounts, bool kTimes, bool kSimple, bool kHeads>
void PackedStep::Distinct(const Input& input, int64_t bag, List* list, Part* part,
                          RowFinder<kHeads>* finder) const {
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
  own.count = 0;
  for (auto* column : {&own.ids, &own.counts, &own.times}) Room(column, most);
  Room(&own.hashes, most);
  own.dedupe.Reset(most);
  StepPart& step = work.step.parts[static_cast<size_t>(part)];
  step.cells.resize(most);
  Room(&own.rows, most);
  FetchPages(work, part);
  table.content_->rows.has_heads() ? LookUp<true>(work, part) : LookUp<false>(work, part);
}

// Where the disk has been waited for: asks for all pages of a part at once, before they are read one by one.
void PackedStep::FetchPages(Work& work, int part) {
  const RowStore& rows = work.table->content_->rows;
  if (rows.tier() == nullptr || !rows.tier()->FetchAhead()) return;
  std::vector<int64_t> ids;
  for (size_t k = 0; k < work.features.size(); ++k) {
    const Input& input = inputs_[work.features[k]];
    if (work.split == 1) ids.insert(ids.end(), input.ids.values, input.ids.values + input.ids.n);
    for (int chunk = 0; work.split > 1 && chunk < work.split; ++chunk) {
      for (const uint32_t at : ListOf(work, k, chunk, part).positions) ids.push_back(input.ids.values[at]);
    }
  }
  rows.FetchCold(ids.data(), nullptr, ids.size());
}

template <bool kHeads>
void PackedStep::LookUp(Work& work, int part) {
  Part& own = work.parts[static_cast<size_t>(part)];
  const Table& table = *work.table;
  const bool counts = table.CountsMatter(), times = table.spec().times;
  StepPart& step = work.step.parts[static_cast<size_t>(part)];
  const int64_t fetch = std::min(EncodedBytes(table.spec().precision, table.dim()), kFetch);
  RowFinder<kHeads> finder(table.content_->rows, own.ids.data(), own.hashes.data(), step.cells.data(),
                           own.rows.data(), fetch);
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
    const bool direct = input.one_each || features_[work.features[k]].pooling == Pooling::kNone;
    if (work.split == 1 && direct) {
      const std::vector<uint32_t>& places = ListOf(work, k, 0, 0).places;
      ActiveKernels().spread(dim, static_cast<int64_t>(places.size()), places.data(),
                             work.parts[0].rows.data(), input.ids.out,
                             input.ids.stride != 0 ? input.ids.stride : dim);
      continue;
    }
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

}  // namespace headrace
