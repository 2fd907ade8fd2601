// The kernels for x86 with AVX-512 F, BW, VL and DQ. Compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq
// -mf16c -mprefer-vector-width=512; without these flags there are none.
#include "rules/kernels.h"

#if defined(__GNUC__) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__)
#define HEADRACE_KERNELS_NAME "avx512"
#include "rules/kernels.inc"
#endif

namespace headrace {

#ifdef HEADRACE_KERNELS_NAME
const Kernels* const kAvx512Kernels = &kKernels;
#else
const Kernels* const kAvx512Kernels = nullptr;
#endif

}  // namespace headrace
