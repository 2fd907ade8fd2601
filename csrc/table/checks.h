// Checks of arguments, each equal in verdict to `headrace/store/arguments.py`.
//
// Thread safety: pure functions. They may throw std::bad_alloc.
#pragma once

#include <cstdint>
#include <span>

#include "table/status.h"

namespace headrace {

// kDuplicateId with the smallest id given twice. Cost: O(N) when ids ascend, else a sort of a copy.
Status CheckUnique(std::span<const int64_t> ids);

// kBadCount with the first row whose count is below 1.
Status CheckCounts(std::span<const int64_t> counts);

// kNotFinite with the first row of (N, dim) that holds NaN or infinity.
Status CheckFinite(std::span<const float> values, int64_t dim);

}  // namespace headrace
