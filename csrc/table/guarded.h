// Guarded: the table's edge. Failed allocations become a status; no exception passes.
//
// Thread safety: as the call it runs.
#pragma once

#include <new>
#include <stdexcept>

#include "cache/disk_failure.h"
#include "table/status.h"

namespace headrace {

template <typename Call>
Status Guarded(Call call) noexcept {
  try {
    return call();
  } catch (const DiskFailure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return {Code::kNoMemory, 0};
  } catch (const std::length_error&) {
    return {Code::kNoMemory, 0};
  }
}

}  // namespace headrace
