// DiskFailure: why a cold tier cannot take more rows. It is a bad_alloc, so code that gives up cleanly when
// memory ends does the same here; Guarded turns it into its status.
//
// Thread safety: a plain value.
#pragma once

#include <new>

#include "table/status.h"

namespace headrace {

struct DiskFailure : std::bad_alloc {
  explicit DiskFailure(Status why) : status(why) {}
  Status status;  // kIo: detail is errno; kTierFull: detail is the budget of memory in bytes
};

}  // namespace headrace
