// PackedStep: one forward pass of Packed that waits for its gradients.
//
// Thread safety: one thread at a time.
// Invariants:
//   1. lists()[(f, c, p)] are the occurrences of feature f, in chunk c of the bags, whose ids belong to part
//   p, in
//      order; read by f, then c, they are the order of occurrence of every id.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <span>
#include <vector>

#include "table/packed.h"
#include "table/pages.h"
#include "table/threads.h"

namespace headrace {

class PackedStep {
 public:
  // Begins anew for this batch. Refuses kInvalid as Packed::Forward does. Throws std::bad_alloc.
  Status Reset(const Packed& packed, std::span<const FeatureIds> inputs, std::span<const int64_t> times,
               int threads);

  // Looks everything up and writes the outputs. Returns kNoMemory or ok.
  Status Forward(int threads);

  // Adds gradients: grads[f] is (bags, D), or (n, D) where nothing is pooled, or null where none flowed.
  // strides[f] is the number of floats from one of its rows to the next; none given: D for all.
  Status Accumulate(std::span<const float* const> grads, int threads, std::span<const int64_t> strides = {});

  // Updates every table that gradients flowed to, with its learning rate. On kNotFinite and the like *table
  // says whose it was. Cost: see Table::Update.
  Status Apply(std::span<const float> lrs, int threads, int32_t* table);

  // What Accumulate has summed for a table: ids ascending. For callers that mix several passes.
  struct Sums {
    std::vector<int64_t> ids;  // (U)
    std::vector<float> grads;  // (U, D)
  };
  Status Take(int32_t table, Sums* out) const;
  // Whether a gradient of this shape belongs to feature `f`.
  bool Fits(size_t f, size_t rows, size_t dim) const;
  bool Flowed(int32_t table) const { return works_[static_cast<size_t>(table)].flowed; }

 private:
  // Floats on whole cache lines, kept from call to call.
  class Floats {
   public:
    float* Room(size_t count) {  // throws std::bad_alloc; the content is lost when it grows
      const auto bytes = static_cast<int64_t>(count * sizeof(float));
      if (memory_.bytes() < bytes) memory_ = Pages(bytes + bytes / 4);
      return data();
    }
    float* data() const { return reinterpret_cast<float*>(memory_.data()); }

   private:
    Pages memory_;
  };
  struct List {
    std::vector<uint32_t> positions;  // within the feature; empty where the list is all of the chunk
    std::vector<uint32_t> places;     // within the part
  };
  struct Part {
    Dedupe dedupe;
    size_t count = 0;                         // U distinct ids; the columns may be longer
    std::vector<int64_t> ids, counts, times;  // (U)
    std::vector<uint64_t> hashes;             // (U)
    std::vector<const float*> rows;           // (U) of embeddings
    Floats decoded;                           // rows that are not float32 in the table, and initial rows
    Floats sums;                              // (U, D)
  };
  struct Input {
    FeatureIds ids;
    bool one_each = false;
    std::vector<int64_t> offsets;  // a copy, unless one_each
    std::vector<uint8_t> part_of;  // (n), where there are several parts
  };
  struct Work {
    Table* table = nullptr;
    std::vector<size_t> features;
    int64_t values = 0;
    int split = 1;            // parts, and chunks
    std::vector<Part> parts;  // at least `split`
    std::vector<List> lists;  // (features, chunks, parts)
    TableStep step;
    bool flowed = false;
  };
  struct Task {
    Work* work;
    int index;  // part or chunk
  };

  List& ListOf(Work& work, size_t feature, int chunk, int part) {
    return work.lists[(feature * static_cast<size_t>(work.split) + static_cast<size_t>(chunk)) *
                          static_cast<size_t>(work.split) +
                      static_cast<size_t>(part)];
  }
  int64_t ChunkStart(const Work& work, int chunk) const { return bags_ * chunk / work.split; }
  int64_t ValueAt(const Input& input, int64_t bag) const {
    return input.one_each ? bag : input.offsets[static_cast<size_t>(bag)];
  }
  void Split(Work& work, int chunk);
  void Find(Work& work, int part);
  void FindDistinct(Work& work, int part);
  void FetchPages(Work& work, int part);
  template <bool kCounts, bool kTimes, bool kSimple, bool kHeads>
  void Distinct(const Input& input, int64_t bag, List* list, Part* part, RowFinder<kHeads>* finder) const;
  template <bool kHeads>
  void LookUp(Work& work, int part);
  void MakeRows(Work& work, Part& part, StepPart& step);
  void Write(Work& work, int chunk);
  void Sum(Work& work, int part, std::span<const float* const> grads, std::span<const int64_t> strides);
  void SumList(const Input& input, Pooling pooling, const List& list, int64_t first, const float* grads,
               int64_t stride, int64_t dim, float* sums) const;
  template <typename Run>
  Status ForAll(int threads, bool split_only, Run run);

  std::span<const Feature> features_;
  std::vector<Input> inputs_;
  std::vector<Work> works_;
  std::vector<int64_t> times_;
  std::vector<Task> tasks_;
  int64_t bags_ = 0;
};

// Runs run(work, index) for every part (or chunk) of every table, on several threads.
template <typename Run>
Status PackedStep::ForAll(int threads, bool split_only, Run run) {
  tasks_.clear();  // has room for all since Reset: running tasks cannot fail for want of memory
  for (Work& work : works_) {
    if (work.features.empty() || (split_only && work.split == 1)) continue;
    for (int index = 0; index < work.split; ++index) tasks_.push_back({&work, index});
  }
  if (tasks_.empty()) return {};
  std::sort(tasks_.begin(), tasks_.end(),
            [](const Task& x, const Task& y) {  // the longest first: no one waits long
              return x.work->values / x.work->split > y.work->values / y.work->split;
            });
  std::atomic<bool> failed{false};
  Threads::For(static_cast<int64_t>(tasks_.size()), threads, [&](int64_t i) noexcept {
    try {
      run(*tasks_[static_cast<size_t>(i)].work, tasks_[static_cast<size_t>(i)].index);
    } catch (const std::bad_alloc&) {
      failed.store(true);
    }
  });
  return failed.load() ? Status{Code::kNoMemory, 0} : Status{};
}

}  // namespace headrace
