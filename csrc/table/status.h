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
  kIo = 9,           // a file could not be written or read; detail: errno
  kCorrupt = 10,     // a file is not what was written; detail: offset of the byte where that was seen
  kFull = 11,        // more rows than the table may hold; detail: how many it may hold
  kNoTimes = 12,     // the table keeps no event times
  kNoHistory = 13,   // the table keeps no change history
  kBusy = 14,        // a snapshot of this table is being taken already
  kCancelled = 15,   // the work was given up before its end
  kTierFull = 16,    // ids alone take more memory than a table with a cold tier may; detail: bytes it may
};

struct Status {
  Code code = Code::kOk;
  int64_t detail = 0;

  bool ok() const { return code == Code::kOk; }
};

}  // namespace headrace
