#include "rules/kernels.h"

#include <atomic>
#include <cstring>
#include <initializer_list>

#include "table/hash.h"

namespace headrace {
namespace {

bool Runs(const Kernels* kernels) {
  if (kernels == nullptr) return false;
#if defined(__x86_64__) && defined(__GNUC__)
  if (kernels == kAvx512Kernels) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
  }
  if (kernels == kAvx2Kernels) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#endif
  return kernels == kPortableKernels;
}

const Kernels* Best() {
  for (const Kernels* kernels : {kAvx512Kernels, kAvx2Kernels}) {
    if (Runs(kernels)) return kernels;
  }
  return kPortableKernels;
}

std::atomic<const Kernels*>& Active() {
  static std::atomic<const Kernels*> active{Best()};
  return active;
}

}  // namespace

int64_t EncodedBytes(Precision precision, int64_t dim) {
  switch (precision) {
    case Precision::kFloat32:
      return 4 * dim;
    case Precision::kBfloat16:
    case Precision::kFloat16:
      return 2 * dim;
    case Precision::kInt8:
      return 4 + (dim + 3) / 4 * 4;
  }
  return 0;
}

uint64_t RoundingStream(uint64_t key, int64_t id, uint64_t step) {
  return Stream(key, id) + step * 0xD1342543DE82EF95ULL;  // another odd step than that between draws
}

const Kernels& ActiveKernels() {
  return *Active().load(std::memory_order_relaxed);
}

bool ChooseKernels(const char* name) {
  for (const Kernels* kernels : {kPortableKernels, kAvx2Kernels, kAvx512Kernels}) {
    if (!Runs(kernels) || std::strcmp(kernels->name, name) != 0) continue;
    Active().store(kernels);
    return true;
  }
  return false;
}

}  // namespace headrace
