// The kernels for x86 with AVX2 and F16C. Compiled with -mavx2 -mf16c; without these flags there are none.
#include "rules/kernels.h"

#if defined(__GNUC__) && defined(__AVX2__) && defined(__F16C__)
#define HEADRACE_KERNELS_NAME "avx2"
#include "rules/kernels.inc"
#endif

namespace headrace {

#ifdef HEADRACE_KERNELS_NAME
const Kernels* const kAvx2Kernels = &kKernels;
#else
const Kernels* const kAvx2Kernels = nullptr;
#endif

}  // namespace headrace
