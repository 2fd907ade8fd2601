#include "table/checks.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace headrace {

Status CheckUnique(std::span<const int64_t> ids) {
  const auto not_rising = [](int64_t x, int64_t y) { return x >= y; };
  if (std::adjacent_find(ids.begin(), ids.end(), not_rising) == ids.end()) return {};
  std::vector<int64_t> ordered(ids.begin(), ids.end());
  std::sort(ordered.begin(), ordered.end());
  const auto twice = std::adjacent_find(ordered.begin(), ordered.end());
  return twice == ordered.end() ? Status{} : Status{Code::kDuplicateId, *twice};
}

Status CheckCounts(std::span<const int64_t> counts) {
  const auto low = std::find_if(counts.begin(), counts.end(), [](int64_t count) { return count < 1; });
  return low == counts.end() ? Status{} : Status{Code::kBadCount, low - counts.begin()};
}

Status CheckFinite(std::span<const float> values, int64_t dim) {
  constexpr uint32_t kExponent = 0x7F800000u;
  const auto bad = [](float value) { return (std::bit_cast<uint32_t>(value) & kExponent) == kExponent; };
  bool any = false;
  for (const float value : values)
    any |= bad(value);  // no early way out: the loop is one vector operation a step
  if (!any) return {};
  const auto first = std::find_if(values.begin(), values.end(), bad);
  return {Code::kNotFinite, (first - values.begin()) / dim};
}

}  // namespace headrace
