// Status: how a call of the table ended. The table never throws across its edge, prints or aborts.
//
// Thread safety: a plain value.
#pragma once

#include <cstdint>

namespace headrace {

enum class Code : int32_t {
  kOk = 0,
  kDuplicateId = 1,  // detail: the smallest id given twice
  kBadCount = 2,     // detail: first row with a count below 1
  kNotFinite = 3,    // detail: first row with NaN or infinity
  kStale = 4,        // detail: the oldest mark whose changes are kept
  kFuture = 5,       // detail: the present mark
  kServing = 6,      // the table only serves
  kNoMemory = 7,     // an allocation failed; nothing was changed
  kInvalid = 8,      // an argument that the caller should have checked (a shape)
};

struct Status {
  Code code = Code::kOk;
  int64_t detail = 0;

  bool ok() const { return code == Code::kOk; }
};

}  // namespace headrace
