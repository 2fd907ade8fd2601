// Samples: small tables drawn at random, for the tests and the fuzzer of this folder.
//
// Thread safety: plain functions.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "snapshot/block_source.h"
#include "snapshot/file_format.h"
#include "table/hash.h"

namespace headrace {

// A stream of draws.
class Dice {
 public:
  explicit Dice(uint64_t seed) : stream_(Mix64(seed + kGamma)) {}
  uint64_t Word() { return Draw(stream_, next_++); }
  uint64_t Below(uint64_t end) { return Word() % end; }
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(Below(static_cast<uint64_t>(high - low + 1)));
  }

 private:
  uint64_t stream_;
  uint64_t next_ = 0;
};

// All blocks of a table and its numbers.
struct Sample {
  Layout layout;
  Numbers numbers;
  std::vector<Block> blocks;
};

inline bool SameBlock(const Block& a, const Block& b) {
  const auto floats = [](const std::vector<float>& x, const std::vector<float>& y) {
    return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), 4 * x.size()) == 0);
  };
  return a.stripe == b.stripe && a.ids == b.ids && a.times == b.times && a.marks == b.marks &&
         a.frequencies == b.frequencies && a.rows == b.rows && floats(a.slots, b.slots) &&
         a.pending_ids == b.pending_ids && a.pending_counts == b.pending_counts &&
         a.pending_times == b.pending_times && a.removed_ids == b.removed_ids &&
         a.removed_marks == b.removed_marks && a.forgotten_ids == b.forgotten_ids && a.sketch == b.sketch;
}

inline bool SameNumbers(const Numbers& a, const Numbers& b) {
  return a.mark == b.mark && a.floor == b.floor && a.admitted == b.admitted && a.filtered == b.filtered &&
         a.evicted == b.evicted && a.newest == b.newest && a.halvings == b.halvings;
}

inline bool Owns(const Layout& layout, int64_t id) {
  return ShardOf(BucketOf(id), layout.shards) == layout.shard;
}

// What an id is in a sample.
enum class Role { kRow, kWaiting, kRemoved, kForgotten };

inline void AddRow(Dice& dice, const Layout& layout, const Numbers& numbers, int64_t id, Block* block) {
  block->ids.push_back(id);
  if (layout.has_times) block->times.push_back(static_cast<int64_t>(dice.Word()));
  const auto low = static_cast<int64_t>(layout.incremental ? layout.since + 1 : 1);
  if (layout.has_marks) block->marks.push_back(dice.Between(low, static_cast<int64_t>(numbers.mark)));
  if (layout.has_frequencies) block->frequencies.push_back(static_cast<uint8_t>(dice.Word()));
  for (int64_t byte = 0; byte < layout.row_bytes; ++byte)
    block->rows.push_back(static_cast<std::byte>(dice.Word()));
  for (int64_t slot = 0; slot < layout.slots; ++slot) {
    block->slots.push_back(static_cast<float>(dice.Between(-9, 9)) / 4.0f);
  }
}

inline void AddId(Dice& dice, const Layout& layout, const Numbers& numbers, int64_t id, Role role,
                  Block* block) {
  const auto floor = static_cast<int64_t>(layout.incremental ? layout.since : numbers.floor);
  if (role == Role::kRow) AddRow(dice, layout, numbers, id, block);
  if (role == Role::kWaiting) {
    block->pending_ids.push_back(id);
    block->pending_counts.push_back(dice.Between(1, 5));
    block->pending_times.push_back(dice.Between(-100, 100));
  }
  if (role == Role::kRemoved && floor < static_cast<int64_t>(numbers.mark)) {
    block->removed_ids.push_back(id);
    block->removed_marks.push_back(dice.Between(floor + 1, static_cast<int64_t>(numbers.mark)));
  }
  if (role == Role::kForgotten) block->forgotten_ids.push_back(id);
}

// A table of the layout with about `count` ids; `sketch` bytes a stripe (a multiple of 16).
inline Sample MakeSample(uint64_t seed, const Layout& layout, int count, int64_t sketch) {
  Dice dice(seed);
  Sample sample{layout, {}, std::vector<Block>(kStripes)};
  Numbers& numbers = sample.numbers;
  numbers.mark = layout.since + 1 + dice.Below(1000);
  numbers.floor = layout.incremental ? dice.Below(layout.since + 1) : dice.Below(numbers.mark);
  numbers.admitted = dice.Between(0, 99);
  numbers.filtered = dice.Between(0, 99);
  numbers.evicted = dice.Between(0, 99);
  numbers.newest = dice.Between(-99, 99);
  numbers.halvings = dice.Between(0, 9);
  std::vector<int64_t> ids;
  while (count-- > 0) ids.push_back(static_cast<int64_t>(dice.Below(2) ? dice.Word() : dice.Below(1000)));
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (const int64_t id : ids) {
    if (!Owns(layout, id)) continue;
    auto role = static_cast<Role>(dice.Below(layout.incremental ? 4 : 3));
    if (dice.Below(2) || (role == Role::kRemoved && !layout.has_marks)) role = Role::kRow;
    AddId(dice, layout, numbers, id, role, &sample.blocks[static_cast<size_t>(StripeOf(id))]);
  }
  for (int32_t stripe = 0; stripe < kStripes; ++stripe) {
    Block& block = sample.blocks[static_cast<size_t>(stripe)];
    block.stripe = stripe;
    if (layout.incremental && dice.Below(2)) continue;
    block.sketch.resize(static_cast<size_t>(sketch));
    for (int64_t at = 0; at < sketch; ++at) {
      const int32_t bucket =
          stripe * kBucketsPerStripe + static_cast<int32_t>(at * kBucketsPerStripe / sketch);
      if (ShardOf(bucket, layout.shards) == layout.shard) {
        block.sketch[static_cast<size_t>(at)] = static_cast<std::byte>(dice.Word());
      }
    }
  }
  return sample;
}

// Gives a sample's blocks.
class SampleSource final : public BlockSource {
 public:
  explicit SampleSource(const Sample& sample) : sample_(sample) {}
  Status Next(Block* out, bool* done) override {
    *done = next_ == sample_.blocks.size();
    if (!*done) *out = sample_.blocks[next_++];
    return {};
  }
  Status Close(Numbers* out) override {
    *out = sample_.numbers;
    return {};
  }

 private:
  const Sample& sample_;
  size_t next_ = 0;
};

}  // namespace headrace
