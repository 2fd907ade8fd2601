#include "snapshot/reshard.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "snapshot/chain.h"
#include "snapshot/file_writer.h"
#include "snapshot/merge.h"
#include "table/guarded.h"

namespace headrace {
namespace {

int32_t FirstBucket(int32_t shard, int32_t shards) {
  return (shard * kBuckets + shards - 1) / shards;
}

// REQUIRES: neither is negative. Files may hold anything: stays at the largest number.
int64_t Sum(int64_t a, int64_t b) {
  return a > INT64_MAX - b ? INT64_MAX : a + b;
}

// The sources as one: one block a stripe, of all their ids.
class Union {
 public:
  explicit Union(ReshardProblem* problem) : problem_(problem) {}

  Status Open(const std::vector<std::vector<std::string>>& sources);
  // Reads on until *block holds `stripe`. REQUIRES: stripes are asked in order.
  Status Take(int32_t stripe, const Block** block);
  // Reads to the end, so that every source was checked as a whole.
  Status End();

  const Layout& layout() const { return sources_.front()->layout(); }
  const std::string& header() const { return sources_.front()->header(); }
  Numbers SumOfNumbers() const;

 private:
  Status CheckOwners() const;
  Status Advance(bool* done);
  Status Join();

  ReshardProblem* problem_;
  std::vector<std::unique_ptr<ChainReader>> sources_;
  std::vector<Block> parts_;  // the present stripe of each source
  Block joined_;
  int32_t stripe_ = -1;
};

Status Union::Open(const std::vector<std::vector<std::string>>& sources) {
  if (sources.empty()) return {Code::kInvalid, 0};
  for (const auto& paths : sources) {
    problem_->source = static_cast<int64_t>(sources_.size());
    sources_.push_back(std::make_unique<ChainReader>());
    const Status status = sources_.back()->Open(paths);
    problem_->file = static_cast<int64_t>(sources_.back()->where());
    if (!status.ok()) return status;
    Layout rows = sources_.back()->layout();
    rows.shard = layout().shard;
    rows.shards = layout().shards;
    if (!rows.SameRows(layout())) return {Code::kInvalid, 0};
  }
  *problem_ = {};
  parts_.resize(sources_.size());
  return CheckOwners();
}

Status Union::CheckOwners() const {
  std::vector<int> owners(kBuckets);
  for (const auto& source : sources_) {
    const auto [shard, shards] = std::pair(source->layout().shard, source->layout().shards);
    for (int32_t bucket = FirstBucket(shard, shards); bucket < FirstBucket(shard + 1, shards); ++bucket) {
      ++owners[static_cast<size_t>(bucket)];
    }
  }
  for (size_t bucket = 0; bucket < owners.size(); ++bucket) {
    if (owners[bucket] != 1) return {Code::kInvalid, static_cast<int64_t>(bucket)};
  }
  return {};
}

Numbers Union::SumOfNumbers() const {
  Numbers sum;
  sum.newest = INT64_MIN;
  for (const auto& source : sources_) {
    const Numbers& numbers = source->numbers();
    sum.mark = std::max(sum.mark, numbers.mark);
    sum.admitted = Sum(sum.admitted, numbers.admitted);
    sum.filtered = Sum(sum.filtered, numbers.filtered);
    sum.evicted = Sum(sum.evicted, numbers.evicted);
    sum.newest = std::max(sum.newest, numbers.newest);
    sum.halvings = std::max(sum.halvings, numbers.halvings);
  }
  sum.floor = sum.mark;
  return sum;
}

Status Union::Advance(bool* done) {
  for (size_t source = 0; source < sources_.size(); ++source) {
    const Status status = sources_[source]->Next(&parts_[source], done);
    if (!status.ok()) {
      problem_->source = static_cast<int64_t>(source);
      problem_->file = static_cast<int64_t>(sources_[source]->where());
      return status;
    }
  }
  ++stripe_;
  return {};
}

Status Union::Take(int32_t stripe, const Block** block) {
  bool done = false;
  while (stripe_ < stripe) {
    if (const Status status = Advance(&done); !status.ok()) return status;
    if (stripe_ != stripe) continue;
    if (const Status status = Join(); !status.ok()) return status;
  }
  *block = &joined_;
  return {};
}

Status Union::End() {
  for (bool done = false; !done;) {
    if (const Status status = Advance(&done); !status.ok()) return status;
  }
  return {};
}

// Few sources have anything in a stripe; the smallest of their next ids is looked for among them.
Status Union::Join() {
  ClearBlock(stripe_, &joined_);
  std::vector<std::pair<const Block*, std::pair<size_t, size_t>>>
      open;  // block, next row and next waiting id
  const size_t sketch = parts_.front().sketch.size(), each = sketch / kBucketsPerStripe;
  for (const Block& part : parts_) {
    if (!part.ids.empty() || !part.pending_ids.empty()) open.push_back({&part, {0, 0}});
    problem_->source = &part - parts_.data();
    if (part.sketch.size() != sketch) return {Code::kInvalid, 0};
  }
  *problem_ = {};
  const auto merge = [&open](auto ids_of, auto place_of, auto append) {
    for (;;) {
      const Block* from = nullptr;
      size_t* place = nullptr;
      for (auto& [part, places] : open) {
        size_t& next = place_of(places);
        if (next == ids_of(*part).size()) continue;
        if (from == nullptr || ids_of(*part)[next] < ids_of(*from)[*place]) from = part, place = &next;
      }
      if (from == nullptr) return;
      append(*from, (*place)++);
    }
  };
  merge([](const Block& part) -> auto& { return part.ids; },
        [](auto& places) -> auto& { return places.first; },
        [&](const Block& from, size_t place) { AppendRow(layout(), from, place, &joined_); });
  merge([](const Block& part) -> auto& { return part.pending_ids; },
        [](auto& places) -> auto& { return places.second; },
        [&](const Block& from, size_t place) { AppendWaiting(from, place, &joined_); });
  joined_.sketch.resize(sketch);
  for (size_t source = 0; source < parts_.size(); ++source) {
    const auto [shard, shards] =
        std::pair(sources_[source]->layout().shard, sources_[source]->layout().shards);
    for (int32_t bucket = 0; bucket < kBucketsPerStripe; ++bucket) {
      if (ShardOf(stripe_ * kBucketsPerStripe + bucket, shards) != shard) continue;
      const auto start = parts_[source].sketch.begin() + static_cast<int64_t>(each) * bucket;
      std::copy(start, start + static_cast<int64_t>(each),
                joined_.sketch.begin() + static_cast<int64_t>(each) * bucket);
    }
  }
  return {};
}

// Writes to *out what of a block belongs to the layout's shard.
void Split(const Layout& layout, uint64_t mark, const Block& block, Block* out) {
  ClearBlock(block.stripe, out);
  const auto owns = [&layout](int64_t id) { return ShardOf(BucketOf(id), layout.shards) == layout.shard; };
  for (size_t place = 0; place < block.ids.size(); ++place) {
    if (owns(block.ids[place])) AppendRow(layout, block, place, out);
  }
  for (size_t place = 0; place < block.pending_ids.size(); ++place) {
    if (owns(block.pending_ids[place])) AppendWaiting(block, place, out);
  }
  std::fill(out->marks.begin(), out->marks.end(), std::max<int64_t>(static_cast<int64_t>(mark), 1));
  out->sketch = block.sketch;
  const size_t each = block.sketch.size() / kBucketsPerStripe;
  for (int32_t bucket = 0; bucket < kBucketsPerStripe; ++bucket) {
    if (ShardOf(block.stripe * kBucketsPerStripe + bucket, layout.shards) == layout.shard) continue;
    std::fill_n(out->sketch.begin() + static_cast<int64_t>(each) * bucket, each, std::byte{0});
  }
}

// Writes one target up to its last byte. `sketch`: bytes of a stripe's part.
Status WriteTarget(const ReshardTarget& target, Union* sources, size_t sketch, TableFileWriter* writer,
                   ReshardedFile* file) {
  Layout layout = sources->layout();
  layout.shard = target.shard;
  layout.shards = target.shards;
  const int32_t first = FirstBucket(target.shard, target.shards) / kBucketsPerStripe;
  const int32_t last = (FirstBucket(target.shard + 1, target.shards) - 1) / kBucketsPerStripe;
  Numbers numbers = sources->SumOfNumbers();
  if (target.shard != 0) numbers.admitted = numbers.filtered = numbers.evicted = 0;
  Status status = writer->Open(target.path, sources->header(), layout);
  Block out;
  for (int32_t stripe = 0; stripe < kStripes && status.ok(); ++stripe) {
    if (stripe >= first && stripe <= last) {
      const Block* block = nullptr;
      status = sources->Take(stripe, &block);
      if (status.ok()) Split(layout, numbers.mark, *block, &out);
    } else {
      ClearBlock(stripe, &out);
      out.sketch.assign(sketch, std::byte{0});
    }
    if (status.ok()) status = writer->Add(out);
  }
  if (status.ok()) status = writer->Seal(numbers);
  *file = {writer->bytes(), writer->digest(), numbers.mark, writer->totals().rows};
  return status;
}

Status Run(const std::vector<std::vector<std::string>>& sources, const std::vector<ReshardTarget>& targets,
           std::vector<ReshardedFile>* files, ReshardProblem* problem) {
  std::vector<size_t> order(targets.size());  // as stripes come
  for (size_t place = 0; place < targets.size(); ++place) {
    const ReshardTarget& target = targets[place];
    problem->target = static_cast<int64_t>(place);
    if (target.shards < 1 || target.shards > kBuckets || target.shard < 0 || target.shard >= target.shards) {
      return {Code::kInvalid, 0};
    }
    if (target.shards != targets[0].shards) return {Code::kInvalid, 0};
    order[place] = place;
  }
  if (targets.empty()) return {Code::kInvalid, 0};
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return targets[a].shard < targets[b].shard; });
  for (size_t place = 1; place < order.size(); ++place) {
    problem->target = static_cast<int64_t>(order[place]);
    if (targets[order[place]].shard == targets[order[place - 1]].shard) return {Code::kInvalid, 0};
  }
  *problem = {};
  Union all(problem);
  if (const Status status = all.Open(sources); !status.ok()) return status;
  const Block* first = nullptr;
  if (const Status status = all.Take(0, &first); !status.ok()) return status;
  const size_t sketch = first->sketch.size();
  files->assign(targets.size(), {});
  std::vector<TableFileWriter> writers(targets.size());
  for (const size_t place : order) {
    const Status status = WriteTarget(targets[place], &all, sketch, &writers[place], &(*files)[place]);
    if (status.ok()) continue;
    if (problem->source < 0) problem->target = static_cast<int64_t>(place);
    return status;
  }
  if (const Status status = all.End(); !status.ok()) return status;
  for (const size_t place : order) {
    problem->target = static_cast<int64_t>(place);
    if (const Status status = writers[place].Publish(); !status.ok()) return status;
  }
  *problem = {};
  return {};
}

}  // namespace

Status Reshard(const std::vector<std::vector<std::string>>& sources,
               const std::vector<ReshardTarget>& targets, std::vector<ReshardedFile>* files,
               ReshardProblem* problem) {
  *problem = {};
  return Guarded([&] { return Run(sources, targets, files, problem); });
}

}  // namespace headrace
