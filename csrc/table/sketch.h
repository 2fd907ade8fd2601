// Sketch: count-min with conservative update and ageing; occurrences of any number of ids in fixed memory.
// Equal byte for byte to `headrace/store/sketch.py`, which also draws the layout.
//
// Thread safety: calls for ids of different stripes may run together; ids of one stripe need a lock around
// them. StripeBytes of a stripe counts as a call for its ids. Invariants:
//   1. A bucket's bytes are written by the ids of that bucket alone.
//   2. An id's estimate is never below its occurrences (up to 255) since its bucket last aged.
//   3. A bucket's additions stay below age_after, or fall by half with every call until they do.
//   4. No memory is allocated after construction.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "table/hash.h"

namespace headrace {

class Sketch {
 public:
  static constexpr int64_t kBuckets = 4096;
  static constexpr int64_t kStripes = 256;  // of 16 buckets each
  static constexpr int64_t kHeaderBytes = 4;
  static constexpr int64_t kMaxDepth = 8;
  static constexpr int64_t kLargest = 255;

  // The virtual bucket of an id, and the stripe that the bucket lies in.
  static int64_t BucketOf(int64_t id) { return static_cast<int64_t>(Mix64(static_cast<uint64_t>(id)) >> 52); }
  static int64_t StripeOf(int64_t id) { return BucketOf(id) >> 4; }

  // Bytes of a sketch.
  static int64_t Bytes(int64_t cells_per_bucket) { return kBuckets * (kHeaderBytes + cells_per_bucket); }

  // REQUIRES: cells_per_bucket > 0, a multiple of 4 and of depth, below 2^31; 1 <= depth <= kMaxDepth;
  // 1 <= age_after <= 2^31. Throws std::bad_alloc.
  Sketch(int64_t cells_per_bucket, int64_t depth, int64_t age_after);

  // Counts `count` occurrences and returns the estimate after them and before the ageing that they may bring
  // about. REQUIRES: count >= 1. Cost: `depth` hashes, one or two cache misses; O(cells_per_bucket) when the
  // bucket ages.
  uint8_t Add(int64_t id, int64_t count);

  // What the sketch takes for the occurrences of an id; 255 means 255 or more.
  uint8_t Estimate(int64_t id) const;

  // Asks the processor to fetch what Add and Estimate of this id touch.
  void Fetch(int64_t id) const;

  // The bytes of a stripe, sixteen buckets one behind the other; all stripes together are the whole sketch.
  std::span<const uint8_t> StripeBytes(int64_t stripe) const;
  std::span<uint8_t> StripeBytes(int64_t stripe);

  // The whole sketch in the order of its buckets. Thread safety: as a call for every id.
  std::span<const uint8_t> All() const { return data_; }

  // Becomes what All said elsewhere; false, and nothing is changed, when the length is another.
  bool Load(std::span<const uint8_t> data);

  int64_t bytes() const { return static_cast<int64_t>(data_.size()); }

 private:
  // Where in its bucket the counter of row `row` stands, for an id with this hash.
  int64_t PlaceOf(uint64_t hash, int64_t row) const {
    const uint64_t word = Draw(hash, static_cast<uint64_t>(row)) >> 32;
    return kHeaderBytes + row * width_ + static_cast<int64_t>((word * static_cast<uint64_t>(width_)) >> 32);
  }
  int64_t StartOf(uint64_t hash) const { return static_cast<int64_t>(hash >> 52) * bucket_bytes_; }

  // Counts occurrences in a bucket's header, and ages the bucket when it is due.
  void Count(uint8_t* bucket, int64_t occurrences);

  int64_t bucket_bytes_;
  int64_t depth_;
  int64_t width_;  // counters in a row of a bucket
  int64_t age_after_;
  std::vector<uint8_t> data_;
};

}  // namespace headrace
