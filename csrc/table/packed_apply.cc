// The backward half of PackedStep: gradients are summed, then every table takes its step.
#include <algorithm>
#include <cstring>

#include "rules/kernels.h"
#include "table/guarded.h"
#include "table/packed_step.h"
#include "table/write_locks.h"

namespace headrace {

void PackedStep::SumList(const Input& input, Pooling pooling, const List& list, int64_t first,
                         const float* grads, int64_t stride, int64_t dim, float* sums) const {
  const Kernels& kernels = ActiveKernels();
  const bool direct = input.one_each || pooling == Pooling::kNone;
  const auto n = static_cast<int64_t>(list.places.size());
  if (direct && list.positions.empty()) {
    kernels.accumulate(dim, n, list.places.data(), grads, stride, sums);
    return;
  }
  std::vector<float> share(static_cast<size_t>(dim));
  int64_t bag = first, shared = -1;
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    const int64_t position = list.positions.empty() ? i : list.positions[at];
    const float* grad = grads + position * stride;
    if (!direct) {
      while (input.offsets[static_cast<size_t>(bag) + 1] <= position) ++bag;
      grad = grads + bag * stride;
      const int64_t length =
          input.offsets[static_cast<size_t>(bag) + 1] - input.offsets[static_cast<size_t>(bag)];
      if (pooling == Pooling::kMean && length > 1) {
        if (shared != bag) {
          for (int64_t j = 0; j < dim; ++j)
            share[static_cast<size_t>(j)] = grad[j] / static_cast<float>(length);
          shared = bag;
        }
        grad = share.data();
      }
    }
    kernels.add(dim, grad, sums + static_cast<int64_t>(list.places[at]) * dim);
  }
}

void PackedStep::Sum(Work& work, int part, std::span<const float* const> grads,
                     std::span<const int64_t> strides) {
  Part& own = work.parts[static_cast<size_t>(part)];
  const int64_t dim = work.table->dim();
  const size_t count = own.count * static_cast<size_t>(dim);
  float* sums = work.flowed ? own.sums.data() : own.sums.Room(count);
  if (!work.flowed) std::fill_n(sums, count, 0.0f);
  for (size_t k = 0; k < work.features.size(); ++k) {
    const size_t f = work.features[k];
    if (grads[f] == nullptr) continue;
    const int64_t stride = strides.empty() ? dim : strides[f];
    for (int chunk = 0; chunk < work.split; ++chunk) {
      const List& list = ListOf(work, k, chunk, part);
      if (work.split > 1 && list.positions.empty()) continue;
      SumList(inputs_[f], features_[f].pooling, list, ChunkStart(work, chunk), grads[f], stride, dim, sums);
    }
  }
  StepPart& step = work.step.parts[static_cast<size_t>(part)];
  step.grads = sums;
  step.finite =
      ActiveKernels().finite(sums, static_cast<int64_t>(count));  // now, while they are in the cache
}

bool PackedStep::Fits(size_t f, size_t rows, size_t dim) const {
  const bool pooled = features_[f].pooling != Pooling::kNone;
  const auto width = static_cast<size_t>(works_[static_cast<size_t>(features_[f].table)].table->dim());
  return dim == width && rows == static_cast<size_t>(pooled ? bags_ : inputs_[f].ids.n);
}

Status PackedStep::Accumulate(std::span<const float* const> grads, int threads,
                              std::span<const int64_t> strides) {
  const auto flows = [&](const Work& work) {
    return work.values > 0 && std::any_of(work.features.begin(), work.features.end(),
                                          [&](size_t f) { return grads[f] != nullptr; });
  };
  return Guarded([&]() -> Status {
    const Status status = ForAll(threads, false, [&](Work& work, int part) {
      if (flows(work)) Sum(work, part, grads, strides);
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
      each(work, index,
           [](Table& table, StepPart& part) { table.Prepare(&part, table.content_->numbers.mark + 1); });
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
      if (!work.flowed) continue;
      *failed = static_cast<int32_t>(&work - works_.data());  // whose rows there was no room for
      work.table->ReserveStep(work.step);
    }
    *failed = -1;
    std::vector<uint64_t> marks(works_.size());  // from here on nothing can fail
    for (size_t t = 0; t < works_.size(); ++t) {
      if (works_[t].flowed) marks[t] = works_[t].table->Admit(&works_[t].step);
    }
    status = ForAll(threads, false, [&](Work& work, int index) {
      const auto t = static_cast<size_t>(&work - works_.data());
      each(work, index, [&](Table& table, StepPart& part) { table.Commit(part, marks[t], lrs[t]); });
    });
    status = ForAll(threads, false, [&](Work& work, int index) {
      if (work.flowed && index == 0) work.table->Tend(work.step);
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
