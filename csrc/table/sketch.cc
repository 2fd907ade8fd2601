#include "table/sketch.h"

namespace headrace {

Sketch::Sketch(int64_t cells_per_bucket, int64_t depth, int64_t age_after)
    : bucket_bytes_(kHeaderBytes + cells_per_bucket),
      depth_(depth),
      width_(cells_per_bucket / depth),
      age_after_(age_after),
      data_(static_cast<size_t>(Bytes(cells_per_bucket))) {}

uint8_t Sketch::Add(int64_t id, int64_t count) {
  const uint64_t hash = Mix64(static_cast<uint64_t>(id));
  uint8_t* bucket = data_.data() + StartOf(hash);
  const int64_t step = std::min(count, kLargest);
  uint8_t* cells[kMaxDepth];
  int64_t least = kLargest;
  for (int64_t row = 0; row < depth_; ++row) {
    cells[row] = bucket + PlaceOf(hash, row);
    least = std::min<int64_t>(least, *cells[row]);
  }
  const auto estimate = static_cast<uint8_t>(std::min(least + step, kLargest));
  for (int64_t row = 0; row < depth_; ++row) *cells[row] = std::max(*cells[row], estimate);
  Count(bucket, step);
  return estimate;
}

void Sketch::Count(uint8_t* bucket, int64_t occurrences) {
  uint32_t additions;
  std::memcpy(&additions, bucket, sizeof additions);
  additions += static_cast<uint32_t>(occurrences);
  if (additions >= static_cast<uint64_t>(age_after_)) {
    additions >>= 1;
    for (int64_t at = kHeaderBytes; at < bucket_bytes_; ++at)
      bucket[at] = static_cast<uint8_t>(bucket[at] >> 1);
  }
  std::memcpy(bucket, &additions, sizeof additions);
}

uint8_t Sketch::Estimate(int64_t id) const {
  const uint64_t hash = Mix64(static_cast<uint64_t>(id));
  const uint8_t* bucket = data_.data() + StartOf(hash);
  uint8_t least = kLargest;
  for (int64_t row = 0; row < depth_; ++row) least = std::min(least, bucket[PlaceOf(hash, row)]);
  return least;
}

void Sketch::Fetch(int64_t id) const {
  const uint64_t hash = Mix64(static_cast<uint64_t>(id));
  const uint8_t* bucket = data_.data() + StartOf(hash);
  __builtin_prefetch(bucket);
  for (int64_t row = 0; row < depth_; ++row) __builtin_prefetch(bucket + PlaceOf(hash, row));
}

std::span<const uint8_t> Sketch::StripeBytes(int64_t stripe) const {
  const auto length = static_cast<size_t>(bucket_bytes_ * (kBuckets / kStripes));
  return std::span<const uint8_t>(data_).subspan(static_cast<size_t>(stripe) * length, length);
}

std::span<uint8_t> Sketch::StripeBytes(int64_t stripe) {
  const auto length = static_cast<size_t>(bucket_bytes_ * (kBuckets / kStripes));
  return std::span<uint8_t>(data_).subspan(static_cast<size_t>(stripe) * length, length);
}

bool Sketch::Load(std::span<const uint8_t> data) {
  if (data.size() != data_.size()) return false;
  std::copy(data.begin(), data.end(), data_.begin());
  return true;
}

}  // namespace headrace
