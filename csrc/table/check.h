// CHECK for the C++ unit tests: a failed one is printed and counted; the test program ends with the count.
//
// Thread safety: CHECK may be used in any thread.
#pragma once

#include <atomic>
#include <cstdio>

namespace headrace {

inline std::atomic<int> failed_checks{0};

inline int ReportChecks(const char* program) {
  const int failed = failed_checks.load();
  if (failed == 0) {
    std::printf("%s: all checks passed\n", program);
  } else {
    std::printf("%s: %d checks failed\n", program, failed);
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace headrace

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::printf("%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      headrace::failed_checks.fetch_add(1);                                     \
    }                                                                           \
  } while (false)
