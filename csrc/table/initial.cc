#include "table/initial.h"

#include <algorithm>

#include "table/hash.h"

namespace headrace {
namespace {

// One standard deviation is 2^16: twelve 16-bit uniform integers, centred.
float IrwinHall(uint64_t stream, uint64_t element) {
  int64_t total = 0;
  for (uint64_t part = 0; part < 3; ++part) {
    const uint64_t word = Draw(stream, 3 * element + part);
    for (int shift = 0; shift < 64; shift += 16) total += static_cast<int64_t>((word >> shift) & 0xFFFF);
  }
  return static_cast<float>(total - 6 * 0xFFFF);
}

}  // namespace

void InitialRow::Fill(int64_t id, int64_t dim, float* row) const {
  if (kind == InitialKind::kConstant) {
    std::fill(row, row + dim, value);
    return;
  }
  const uint64_t stream = Stream(key, id);
  if (kind == InitialKind::kUniform) {
    for (int64_t j = 0; j < dim; ++j) {
      const auto bits =
          static_cast<float>(static_cast<int32_t>(Draw(stream, static_cast<uint64_t>(j)) >> 40));
      row[j] = (bits * 0x1p-23f - 1.0f) * value;
    }
    return;
  }
  for (int64_t j = 0; j < dim; ++j) row[j] = (IrwinHall(stream, static_cast<uint64_t>(j)) * 0x1p-16f) * value;
}

}  // namespace headrace
